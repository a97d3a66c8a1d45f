"""PURE: is a trial that failed worth another start?

What happened to its process or its machine may not happen again; what its settings, code or data did would. Failures
inside a run, such as a lost worker, are met by the run itself first (`trainplane.train.launch.failure_policy`).
"""

from __future__ import annotations

# Names of `trainplane.train.launch.failure_policy.Cause`, and that the trial's own process went away without a word.
GONE = "GONE"
_OF_THE_MACHINE = (GONE, "LOST", "NOTICE", "CREDENTIALS", "OURS")


def again(cause: str, *, failures: int, retries: int) -> bool:
    """Whether to start the trial again after so many failures, this one included."""
    return cause in _OF_THE_MACHINE and failures <= retries
