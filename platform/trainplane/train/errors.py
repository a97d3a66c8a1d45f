"""Errors that end an attempt of a run."""

from __future__ import annotations

from typing import Any

from trainplane.errors import RunFailed


class Diverged(RunFailed):
    """The guard ended the run."""


class WorkerLost(RunFailed):
    """A rank's process or node went away."""


class Halted(RunFailed):
    """All ranks were asked to stop, saved where they stood, and stopped."""


class Resized(Halted):
    """Stopped so, because there is room for more ranks."""


class Superseded(RunFailed):
    """Another attempt at the same run began elsewhere, and goes on with it."""


class CodeFailed(RunFailed):
    """The task's code raised; the message ends with its traceback."""


class OutOfMemory(RunFailed):
    """A step did not fit with `micro_batch` pictures at once, of a rank's `share`."""

    def __init__(self, sentence: str, micro_batch: int, share: int) -> None:
        super().__init__(sentence)
        self.micro_batch = micro_batch
        self.share = share

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.micro_batch, self.share)


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether this is memory that ran out, on the device or on the host."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    )
