"""Mistakes a user can make, and failures of a run, as sentences.

A message has three parts: what we got, what we need, what to do. The command line prints `UserError` and
`RunFailed` without a traceback; anything else that escapes is a fault of ours and shows one.
"""


class UserError(ValueError):
    """The user's mistake: nothing was started and nothing was lost. The command exits with status 2."""


class RunFailed(RuntimeError):
    """It ran and failed: damage found, a gate refused, a worker died. The command exits with status 1."""


def nearest(name: str, known: "list[str] | tuple[str, ...]") -> str:
    """A hint for a misspelt name: `"; did you mean 'steps'?"`, or the known names when none is near."""
    import difflib

    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(known))}"
