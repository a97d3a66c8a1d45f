"""Stores checkpoints in a background thread, then applies retention.

Training continues meanwhile. The store retries a failed upload; only too many failures in a row end the run.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainplane.errors import RunFailed
from trainplane.storage import StorageError, Store
from trainplane.train.checkpoint import pins
from trainplane.train.checkpoint.fencing import FencingToken
from trainplane.train.checkpoint.retention import RetentionRules, steps_to_keep
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.checkpoint.store import (
    ABANDONED,
    MANIFEST,
    Checkpoint,
    Manifests,
    delete,
    folders_of,
    order_of,
    write,
)
from trainplane.train.errors import Superseded

log = logging.getLogger(__name__)


@dataclass
class CheckpointWriter:
    """Writes the checkpoints of rank 0, one at a time."""

    store: Store
    rules: RetentionRules
    failures_allowed: int = 3  # Uploads in a row that may fail before `save` raises `RunFailed`
    stall_s: float = 0.0  # Seconds that training has waited for uploads
    failed: int = 0
    last: Checkpoint | None = None  # The newest good checkpoint
    token: FencingToken | None = None
    _since: int = 0
    _written: set[int] = field(default_factory=set, repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    _failures_in_a_row: int = 0
    _error: BaseException | None = field(default=None, repr=False)
    _manifests: Manifests = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._manifests = Manifests(self.store)

    def start(self) -> None:
        """Makes this the attempt that may write.

        Removes unfinished files that killed attempts left.
        """
        self.token = FencingToken.acquire(self.store)
        # Whoever still writes has lost the right to: nobody's upload is among them.
        try:
            self.store.clear_unfinished(lambda key: key.startswith("step-"))
        except StorageError as error:
            log.info("unfinished uploads could not be removed: %s", error)

    def check(self) -> None:
        """Raises `Superseded` where another attempt may write now."""
        if self.token is not None:
            self.token.check()

    def resume_from(self, checkpoint: Checkpoint) -> None:
        """Sets the last good checkpoint; newer ones were unreadable."""
        self.last, self._since = checkpoint, checkpoint.step

    def save(
        self,
        state: TrainingState,
        *,
        meta: dict[str, Any],
        unsent: bytes = b"",
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to store a state, after the one before.

        Waiting adds to `stall_s`; too many failures in a row raise `RunFailed`. The arguments are those of
        `store.write`.
        """
        self.wait()
        self._raise_when_spent()
        work = (state, meta, unsent, dict(metrics or {}))
        self._thread = threading.Thread(target=self._work, args=work, name="checkpoint", daemon=True)
        self._thread.start()

    def finish(self) -> Checkpoint | None:
        """Waits for the last checkpoint; `RunFailed` if it failed."""
        self.wait()
        if self._failures_in_a_row:
            raise RunFailed(f"the last checkpoint could not be stored in {self.store.address}: {self._error}")
        return self.last

    def wait(self) -> None:
        """Waits for the upload in progress, successful or not.

        Adds to `stall_s`. Raises `Superseded` where another attempt may write now.
        """
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
                f"({self._error}); mend the store and run the same command again: it resumes at "
                + (f"step {self.last.step}" if self.last else "the start, because none was stored before")
            )

    def _work(self, state: TrainingState, meta: dict[str, Any], unsent: bytes, metrics: dict[str, float]) -> None:
        try:
            self.last = write(self.store, state, meta=meta, unsent=unsent, metrics=metrics, check=self.check)
        # Any error is counted while training continues. Lost in the thread it would look like a success.
        except Exception as error:
            self.failed += 1
            self._failures_in_a_row += 1
            self._error = error
            # A superseded attempt reports that once, when it stops.
            if not isinstance(error, Superseded):
                log.warning("checkpoint at step %d could not be stored: %s", state.step, error)
            return
        # Success: reset the count, then delete what retention no longer keeps.
        self._failures_in_a_row = 0
        self._written.add(state.step)
        try:
            apply_retention(
                self.store,
                self.rules,
                since=self._since,
                written=self._written,
                check=self.check,
                manifests=self._manifests,
            )
        except Superseded as error:
            self._error = error
        except (StorageError, OSError) as error:
            log.warning("old checkpoints could not be deleted: %s", error)


def apply_retention(
    store: Store,
    rules: RetentionRules,
    *,
    since: int,
    written: Collection[int],
    check: Callable[[], None] = lambda: None,
    manifests: Manifests | None = None,
) -> list[str]:
    """Deletes checkpoints that no rule keeps; returns their folders.

    Args:
        store: The run's folder.
        rules: Checkpoints to keep.
        since: Step that this process resumed at, 0 for a new run.
        written: Steps that this process has stored. Others beyond `since` were unreadable when it started.
        check: Raises where this process must not delete. Called before every removal.
        manifests: Those of the run that were read before.
    """
    # Damaged: beyond the step this process resumed at, and not written by it.
    folders = folders_of(store)
    present = (manifests or Manifests(store)).committed(folders)
    steps = {checkpoint.step for checkpoint in present}
    damaged = {step for step in steps if step > since and step not in written}
    values = {c.step: c.metrics[rules.metric] for c in present if rules.metric in c.metrics}
    # Pinned checkpoints stay whatever the rules say.
    pinned = pins.pinned_folders(store)
    pinned_steps = {order_of(folder)[0] for folder in pinned}
    kept_steps = steps_to_keep(steps, metrics=values, pins=pinned_steps, rules=rules, damaged=damaged)
    # Committed checkpoints that no rule keeps.
    expired = {c.key for c in present if c.step not in kept_steps}
    # Folders that a kill left half written or half deleted (ours is committed, and no other process writes here), and
    # checkpoints that a roll-back abandoned.
    broken = {folder for folder, names in folders.items() if MANIFEST not in names or ABANDONED in names}
    expired |= broken - {checkpoint.key for checkpoint in present}
    removed = sorted(expired - pinned)
    for folder in removed:
        delete(store, folder, check=check)
    return removed
