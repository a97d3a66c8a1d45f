"""Policy for failed attempts: retry or give up, by cause.

Pure: no I/O. A lost worker is replaced, out of memory halves the micro-batch, expired credentials are waited for, a
preempted run starts elsewhere. A mistake in code or data would happen again, so it is reported at once.
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
    """Cause of an attempt's end before its last step.

    The journal of a search stores the names.
    """

    LOST = "a worker was lost"
    NOTICE = "the node was about to shut down"
    RESIZE = "there is room for more workers"
    MEMORY = "memory ran out"
    CREDENTIALS = "credentials expired"
    DIVERGED = "training diverged"
    OURS = "the run failed"
    USER = "the user's mistake"
    CODE = "the task's code failed"


@dataclass(frozen=True)
class RetryDecision:
    """Decision about a failed attempt; `micro_batch=None` keeps the old one."""

    retry: bool
    reason: str
    wait_s: float = 0.0
    micro_batch: int | None = None


# Failures in a row, without a new checkpoint between them, that end the run.
LOST_IN_A_ROW = 4
CREDENTIALS_IN_A_ROW = 5
CREDENTIALS_WAIT_S = 60.0

_EXPIRED = re.compile(r"Expired|TokenRefreshRequired")


def cause_of(error: BaseException) -> Cause:
    """Returns the cause of an attempt's error."""
    # The most specific class first: Resized is a Halted, and all are RunFailed.
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
    # Expired credentials show only in the text of the error.
    if isinstance(error, RunFailed):
        return Cause.CREDENTIALS if _EXPIRED.search(str(error)) else Cause.OURS
    return Cause.CODE


def decide_retry(
    error: BaseException,
    *,
    cause: Cause,
    in_a_row: Mapping[Cause, int],
    auto_micro_batch: bool,
) -> RetryDecision:
    """Decides whether another attempt is worth its cost.

    `in_a_row` counts failures of each cause since the last new checkpoint, this one included.
    """
    count = in_a_row.get(cause, 1)
    if cause is Cause.RESIZE:
        return RetryDecision(True, cause.value)
    # A lost worker or node may be replaced, unless losses come faster than checkpoints.
    if cause in (Cause.LOST, Cause.NOTICE):
        if count >= LOST_IN_A_ROW:
            return RetryDecision(False, f"{count} attempts in a row lost workers without any progress")
        return RetryDecision(True, cause.value)
    # Credentials are renewed outside this process.
    if cause is Cause.CREDENTIALS:
        if count >= CREDENTIALS_IN_A_ROW:
            return RetryDecision(False, f"credentials stayed expired for {count} attempts; renew them")
        return RetryDecision(True, "credentials expired; waiting for fresh ones", wait_s=CREDENTIALS_WAIT_S)
    # A smaller micro-batch needs less memory and does not change the losses.
    if cause is Cause.MEMORY and auto_micro_batch and isinstance(error, OutOfMemory):
        smaller = smaller_micro_batch(error.share, error.micro_batch)
        if smaller is None:
            return RetryDecision(False, "not even one sample at once fits")
        return RetryDecision(True, f"memory ran out with {error.micro_batch} samples at once", micro_batch=smaller)
    return RetryDecision(False, "another attempt would fail alike")
