"""PURE: why an attempt failed, and what that cause deserves.

A lost worker is replaced, memory that ran out halves the micro-batch, expired credentials are waited for, a notice is
obeyed; what the user's code or data did wrong would happen again, so it is told once. Each cause has its own count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from trainplane.errors import RunFailed, UserError
from trainplane.train.batch_size import smaller_micro_batch
from trainplane.train.errors import CodeFailed, Diverged, Halted, OutOfMemory, Resized, WorkerLost


class Cause(Enum):
    """Why an attempt ended before its last step."""

    LOST = "a worker was lost"
    NOTICE = "the node was about to go"
    RESIZE = "there is room for more workers"
    MEMORY = "memory ran out"
    CREDENTIALS = "credentials expired"
    DIVERGED = "training diverged"
    OURS = "the run failed"
    USER = "the user's mistake"
    CODE = "the task's code failed"


@dataclass(frozen=True)
class AfterFailure:
    """What to do about an attempt that failed: again after `wait_s` seconds, with this micro-batch if one is named."""

    again: bool
    reason: str
    wait_s: float = 0.0
    micro_batch: int | None = None


LOST_IN_A_ROW = 4
CREDENTIALS_IN_A_ROW = 5
CREDENTIALS_WAIT_S = 60.0

_EXPIRED = re.compile(r"Expired|TokenRefreshRequired")


def cause_of(error: BaseException) -> Cause:
    """The cause behind what an attempt raised."""
    by_kind = {
        OutOfMemory: Cause.MEMORY,
        WorkerLost: Cause.LOST,
        Resized: Cause.RESIZE,
        Halted: Cause.NOTICE,
        Diverged: Cause.DIVERGED,
        CodeFailed: Cause.CODE,
        UserError: Cause.USER,
    }
    for kind, cause in by_kind.items():
        if isinstance(error, kind):
            return cause
    if isinstance(error, RunFailed):
        return Cause.CREDENTIALS if _EXPIRED.search(str(error)) else Cause.OURS
    return Cause.CODE


def after_failure(
    error: BaseException,
    *,
    cause: Cause,
    in_a_row: Mapping[Cause, int],
    auto_micro_batch: bool,
) -> AfterFailure:
    """Is another attempt worth its cost? `in_a_row` counts failures of each cause, this one included, since a
    checkpoint was last committed."""
    count = in_a_row.get(cause, 1)
    if cause is Cause.RESIZE:
        return AfterFailure(True, cause.value)
    if cause in (Cause.LOST, Cause.NOTICE):
        if count >= LOST_IN_A_ROW:
            return AfterFailure(False, f"{count} attempts in a row lost workers without any progress")
        return AfterFailure(True, cause.value)
    if cause is Cause.CREDENTIALS:
        if count >= CREDENTIALS_IN_A_ROW:
            return AfterFailure(False, f"credentials stayed expired for {count} attempts; renew them")
        return AfterFailure(True, "credentials expired; waiting for fresh ones", wait_s=CREDENTIALS_WAIT_S)
    if cause is Cause.MEMORY and auto_micro_batch and isinstance(error, OutOfMemory):
        smaller = smaller_micro_batch(error.share, error.micro_batch)
        if smaller is None:
            return AfterFailure(False, "not even one picture at once fits")
        return AfterFailure(True, f"memory ran out with {error.micro_batch} pictures at once", micro_batch=smaller)
    return AfterFailure(False, "another attempt would meet the same cause")
