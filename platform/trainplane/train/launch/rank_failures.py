"""Finds an attempt's cause of failure in its ranks' errors.

Usually one rank fails and the others only see their connections break. Pure: no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainplane.errors import RunFailed
from trainplane.train.errors import CodeFailed, Misconfigured, NodeFailed, WorkerLost
from trainplane.train.launch.error_kinds import ErrorKind

# Ranks whose errors a sentence quotes.
_QUOTED = 4


@dataclass(frozen=True)
class RankFailure:
    """Error that ended one rank."""

    rank: int
    host: str
    node: str  # Ray's id of the node
    step: int  # global step that the rank was in
    kind: ErrorKind
    line: str  # first line of the error
    text: str = ""  # with its traceback, for errors of the code

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}: {self.line}"


def error_of(failures: Sequence[RankFailure], *, num_dead: int = 0, ranks: int = 0) -> RunFailed | None:
    """Returns the error that stands for the ranks' errors.

    Args:
        failures: Errors that ranks reported, the first one first.
        num_dead: Ranks whose process or node died.
        ranks: Number of ranks.

    Returns:
        An error of the class that decides about another attempt; None if nothing is known.
    """
    by_kind = {kind: [failure for failure in failures if failure.kind is kind] for kind in ErrorKind}
    if setup := by_kind[ErrorKind.SETUP]:
        return Misconfigured(
            f"the ranks cannot work together as the cluster is set up ({quoted(setup)}); another attempt would fail "
            "alike, so there is none: correct the setting or the installation that it names"
        )
    if code := by_kind[ErrorKind.CODE]:
        return CodeFailed(
            f"the task's code failed on rank {code[0].rank}; another attempt would fail alike, so there is none\n"
            f"{code[0].text or code[0].line}"
        )
    if hardware := by_kind[ErrorKind.HARDWARE]:
        first = hardware[0]
        return NodeFailed(
            f"a GPU or its driver failed ({quoted(hardware)})", node=first.node, host=first.host, step=first.step
        )
    if not num_dead and not failures:
        return None
    # The others' errors may say on which connection, and why.
    what = f"{num_dead} of {ranks} workers died" if num_dead else "the connections between the workers broke"
    return WorkerLost(f"{what}; {quoted(failures)}" if failures else what)


def quoted(failures: Sequence[RankFailure]) -> str:
    """First lines of the ranks' errors, by rank."""
    lines = [str(failure) for failure in sorted(failures, key=lambda failure: failure.rank)]
    more = f"; and {len(lines) - _QUOTED} more ranks" if len(lines) > _QUOTED else ""
    return "; ".join(lines[:_QUOTED]) + more
