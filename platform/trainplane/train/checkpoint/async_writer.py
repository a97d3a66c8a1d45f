"""Stores checkpoints behind the training's back, and takes away those that need not stay.

Writing happens in a thread and never stops training: a failed upload is retried by the store, then counted, and only
when the budget of failures in a row is spent does the run fail. Not covered: what a checkpoint is (`checkpoint`), which
ones stay (`retention`), who may write (`tenure`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainplane.errors import RunFailed
from trainplane.storage import StorageError, Store
from trainplane.train.checkpoint import pins
from trainplane.train.checkpoint.fencing import Tenure
from trainplane.train.checkpoint.retention import Rules, keep
from trainplane.train.checkpoint.state import State
from trainplane.train.checkpoint.store import (
    ABANDONED,
    MANIFEST,
    Checkpoint,
    committed,
    delete,
    folders_of,
    order_of,
    write,
)
from trainplane.train.errors import Superseded

log = logging.getLogger(__name__)


@dataclass
class Writer:
    """Writes checkpoints behind the training's back, one at a time, in rank 0.

    failures_allowed -- uploads in a row that may fail before `save` raises `RunFailed`
    """

    store: Store
    rules: Rules
    failures_allowed: int = 3
    stall_s: float = 0.0
    failed: int = 0
    last: Checkpoint | None = None
    tenure: Tenure | None = None
    _since: int = 0
    _written: set[int] = field(default_factory=set, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _failures_in_a_row: int = 0
    _error: BaseException | None = field(default=None, repr=False)

    def begin(self) -> None:
        """From here on this is the attempt that may write; raises `RunFailed` where the store cannot be written."""
        self.tenure = Tenure.begin(self.store)

    def go_on_from(self, checkpoint: Checkpoint) -> None:
        """The run continues from this one: it is the last good one, and what lies beyond it could not be read."""
        self.last, self._since = checkpoint, checkpoint.step

    def save(
        self, state: State, *, meta: dict[str, Any], unsent: bytes = b"", metrics: Mapping[str, float] | None = None
    ) -> None:
        """Start storing `state`; waits for the previous one first. The waiting is counted in `stall_s`."""
        self.wait()
        self._raise_when_spent()
        work = (state, meta, unsent, dict(metrics or {}))
        self._thread = threading.Thread(target=self._work, args=work, name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> Checkpoint | None:
        """Wait until the last checkpoint is committed and return it; raises `RunFailed` if it never was."""
        self.wait()
        if self._failures_in_a_row:
            raise RunFailed(f"the last checkpoint could not be stored in {self.store.address}: {self._error}")
        return self.last

    def wait(self) -> None:
        """Wait for what is under way, however it ends; the waiting is counted in `stall_s`."""
        if self._thread is not None:
            started = time.monotonic()
            self._thread.join()
            self.stall_s += time.monotonic() - started
            self._thread = None
        if isinstance(self._error, Superseded):
            raise self._error

    def _raise_when_spent(self) -> None:
        if self._failures_in_a_row > self.failures_allowed:
            raise RunFailed(
                f"{self._failures_in_a_row} checkpoints in a row could not be stored in {self.store.address} "
                f"({self._error}); mend the store and run the same command again: it goes on from "
                + (f"step {self.last.step}" if self.last else "the start, as none was stored before")
            )

    def _work(self, state: State, meta: dict[str, Any], unsent: bytes, metrics: dict[str, float]) -> None:
        check = self.tenure.check if self.tenure else lambda: None
        try:
            self.last = write(self.store, state, meta=meta, unsent=unsent, metrics=metrics, check=check)
        # Whatever it was, training goes on and the failure counts; lost in a thread it would look like a success.
        except Exception as error:
            self.failed += 1
            self._failures_in_a_row += 1
            self._error = error
            # Who was succeeded says so once, as it stops.
            if not isinstance(error, Superseded):
                log.warning("checkpoint at step %d could not be stored: %s", state.step, error)
            return
        self._failures_in_a_row = 0
        self._written.add(state.step)
        try:
            tidy(self.store, self.rules, since=self._since, written=self._written)
        except (StorageError, OSError) as error:
            log.warning("old checkpoints could not be deleted: %s", error)


def tidy(store: Store, rules: Rules, *, since: int, written: Collection[int]) -> list[str]:
    """Carry retention out after a checkpoint was committed; the folders that were removed.

    since   -- the step that this process went on from, 0 where it began anew
    written -- the steps that it has stored; others beyond `since` could not be read when it began
    """
    present = committed(store)
    steps = {checkpoint.step for checkpoint in present}
    damaged = {step for step in steps if step > since and step not in written}
    values = {c.step: c.metrics[rules.metric] for c in present if rules.metric in c.metrics}
    pinned = pins.pinned_folders(store)
    pinned_steps = {order_of(folder)[0] for folder in pinned}
    stays = keep(steps, metrics=values, pins=pinned_steps, rules=rules, damaged=damaged)
    gone = {c.key for c in present if c.step not in stays}
    # What a kill left half written or half removed (ours is committed, and nobody else writes here), and what the run
    # went back behind and nobody needs any more.
    rest = {folder for folder, names in folders_of(store).items() if MANIFEST not in names or ABANDONED in names}
    gone |= rest - {checkpoint.key for checkpoint in present}
    removed = sorted(gone - pinned)
    for folder in removed:
        delete(store, folder)
    return removed
