"""Policy for failed attempts: retry or give up, by cause.

Pure: no I/O. A lost worker is replaced, out of memory halves the micro-batch, expired credentials are waited for, a
preempted run and one whose GPU failed start elsewhere. A mistake in code, data or set-up would happen again, so it is
reported at once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from trainplane.errors import RunFailed, UserError
from trainplane.storage import StoreAway
from trainplane.train.batch_size import smaller_micro_batch
from trainplane.train.errors import (
    CodeFailed,
    Diverged,
    Halted,
    Misconfigured,
    NodeFailed,
    OutOfMemory,
    Resized,
    WorkerLost,
)
from trainplane.train.launch.error_kinds import ErrorKind, kind_of


class Cause(Enum):
    """Cause of an attempt's end before its last step.

    The journal of a search stores the names.
    """

    LOST = "a worker was lost"
    NOTICE = "the node was about to shut down"
    RESIZE = "there is room for more workers"
    MEMORY = "memory ran out"
    HARDWARE = "a node's GPU failed"
    SETUP = "the cluster is set up wrongly"
    CREDENTIALS = "credentials expired"
    DIVERGED = "training diverged"
    STORE = "the store is away"
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
# Pauses before a lost worker is replaced: what took it may need a moment to pass.
LOST_WAITS_S = (1.0, 10.0, 60.0)
# Blames after which a node gets no ranks of the run any more.
BLAMES = 2

_EXPIRED = re.compile(r"Expired|TokenRefreshRequired")


def cause_of(error: BaseException) -> Cause:
    """Returns the cause of an attempt's error."""
    # The most specific class first: Resized is a Halted, and all are RunFailed.
    by_kind = {
        OutOfMemory: Cause.MEMORY,
        NodeFailed: Cause.HARDWARE,
        Misconfigured: Cause.SETUP,
        WorkerLost: Cause.LOST,
        Resized: Cause.RESIZE,
        Halted: Cause.NOTICE,
        Diverged: Cause.DIVERGED,
        CodeFailed: Cause.CODE,
        UserError: Cause.USER,
        StoreAway: Cause.STORE,
    }
    for kind, cause in by_kind.items():
        if isinstance(error, kind):
            return cause
    # Expired credentials show only in the text of the error.
    if isinstance(error, RunFailed):
        return Cause.CREDENTIALS if _EXPIRED.search(str(error)) else Cause.OURS
    return {ErrorKind.HARDWARE: Cause.HARDWARE, ErrorKind.SETUP: Cause.SETUP}.get(kind_of(error), Cause.CODE)


@dataclass(frozen=True)
class NodeBlame:
    """Nodes whose GPUs failed in a run, with the steps."""

    failures: tuple[tuple[str, int], ...] = ()

    def adding(self, failure: NodeFailed) -> NodeBlame:
        """Returns the blame after another failure."""
        return NodeBlame((*self.failures, (failure.node, failure.step)))

    def is_of_code(self) -> bool:
        """True where two nodes failed at one step."""
        # Every attempt computes the same at a step, so two broken GPUs at one step would be a coincidence.
        nodes_by_step: dict[int, set[str]] = {}
        for node, step in self.failures:
            nodes_by_step.setdefault(step, set()).add(node)
        return any(len(nodes) > 1 for nodes in nodes_by_step.values())

    @property
    def avoided(self) -> frozenset[str]:
        """Nodes that get no ranks any more."""
        return frozenset(node for node, count in self._counts().items() if count >= BLAMES)

    @property
    def suspected(self) -> frozenset[str]:
        """Nodes that get ranks only where there are no others."""
        return frozenset(self._counts()) - self.avoided

    def _counts(self) -> Counter[str]:
        return Counter(node for node, _ in self.failures)


def decide_retry(
    error: BaseException,
    *,
    cause: Cause,
    in_a_row: Mapping[Cause, int],
    auto_micro_batch: bool,
    blame: NodeBlame | None = None,
) -> RetryDecision:
    """Decides whether another attempt is worth its cost.

    `in_a_row` counts failures of each cause since the last new checkpoint, this one included; `blame` has the failed
    GPUs of all attempts.
    """
    count = in_a_row.get(cause, 1)
    if cause is Cause.RESIZE:
        return RetryDecision(True, cause.value)
    # A lost worker or node may be replaced, unless losses come faster than checkpoints.
    if cause in (Cause.LOST, Cause.NOTICE, Cause.HARDWARE):
        if cause is Cause.HARDWARE and blame is not None and blame.is_of_code():
            return RetryDecision(False, "two nodes failed at the same step, so it is the code")
        if count >= LOST_IN_A_ROW:
            return RetryDecision(False, f"{count} attempts in a row lost workers without any progress")
        wait_s = LOST_WAITS_S[min(count, len(LOST_WAITS_S)) - 1] if cause is Cause.LOST else 0.0
        return RetryDecision(True, cause.value, wait_s=wait_s)
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
    # It was waited for, in every request, as long as the context allows.
    if cause is Cause.STORE:
        return RetryDecision(False, "the store stayed away; the same command resumes the run when it is back")
    return RetryDecision(False, "another attempt would fail alike")
