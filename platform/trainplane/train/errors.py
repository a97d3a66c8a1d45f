"""Errors that end an attempt of a run."""

from __future__ import annotations

from typing import Any

from trainplane.errors import RunFailed
from trainplane.train.batch_size import BatchSplit


class Diverged(RunFailed):
    """The guard ended the run."""


class WorkerLost(RunFailed):
    """The process or the node of a rank died."""


class NodeFailed(WorkerLost):
    """A node's GPU failed, in global step `step`."""

    def __init__(self, message: str, *, node: str, host: str, step: int) -> None:
        super().__init__(message)
        self.node, self.host, self.step = node, host, step

    # Exceptions travel between processes by pickle, which passes only `args` unless told otherwise.
    def __reduce__(self) -> tuple[Any, ...]:
        return _node_failed, (str(self), self.node, self.host, self.step)


def _node_failed(message: str, node: str, host: str, step: int) -> NodeFailed:
    return NodeFailed(message, node=node, host=host, step=step)


class Stalled(WorkerLost):
    """The ranks stopped moving, and are replaced."""


class Misconfigured(RunFailed):
    """The ranks cannot work together in this cluster."""


class Halted(RunFailed):
    """All ranks saved a checkpoint and stopped, as requested."""


class Resized(Halted):
    """All ranks stopped because the cluster can hold more."""


class Superseded(RunFailed):
    """A newer attempt of the same run has taken over."""


class CodeFailed(RunFailed):
    """The task's code raised; the message ends with its traceback."""


class OutOfMemory(RunFailed):
    """Step out of memory; `share` is samples of a rank."""

    def __init__(self, message: str, micro_batch: int, share: int) -> None:
        super().__init__(message)
        self.micro_batch = micro_batch
        self.share = share

    @classmethod
    def in_step(cls, step: int, *, rank: int, split: BatchSplit) -> OutOfMemory:
        """Error of a step on one rank."""
        return cls(
            f"memory ran out in step {step} on rank {rank} ({split}); set train.micro_batch=auto, or a smaller one",
            split.micro_batch,
            split.share,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.micro_batch, self.share)


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Detects an out-of-memory error of the device or the host."""
    # By name: torch's and Ray's classes of that name are not imported here.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"OutOfMemoryError", "MemoryError"}) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
    )
