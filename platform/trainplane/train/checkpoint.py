"""Checkpoints: `RUN/step-00001000/{tensors.safetensors, state.json, manifest.json}`, manifest last.

A checkpoint exists when its manifest does, and is good when the digests in the manifest hold. Writing happens in a
thread and never stops training: a failed upload is retried by the store, then counted, and only when the budget of
failures in a row is spent does the run fail. This is the one checkpoint authority; Ray's own is not used.

A folder that is pinned (`pins`) is neither removed nor written again: where its step is stored once more, the new one
lies beside it as `step-00001000.2`. Not covered: which checkpoints stay (`retention`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch

from trainplane.config import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, StorageError, Store
from trainplane.train import pins
from trainplane.train.failures import Superseded
from trainplane.train.retention import Rules, keep
from trainplane.train.state import State
from trainplane.train.tenure import Tenure

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
UNSENT = "unsent.spool"
ABANDONED = "abandoned"
_FOLDER = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its step, its folder inside the run, and what the manifest says."""

    step: int
    key: str
    manifest: dict[str, Any]

    @property
    def state_digest(self) -> str:
        return str(self.manifest["state_digest"])

    @property
    def metrics(self) -> dict[str, float]:
        """What the validation at this very step measured; empty where there was none."""
        return dict(self.manifest.get("metrics", {}))


def folder_of(step: int) -> str:
    return f"step-{step:08d}"


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds: the state, its `meta`, and records that the tracking server had not acknowledged."""

    checkpoint: Checkpoint
    state: State
    meta: dict[str, Any]
    unsent: bytes


def write(
    store: Store,
    state: State,
    *,
    meta: dict[str, Any],
    unsent: bytes = b"",
    metrics: Mapping[str, float] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Store one checkpoint, manifest last.

    `meta` is what a reader needs beside the tensors: the whole configuration, dataset digest, order hash. `unsent`
    are tracking records that only this node has: carried here, a lost node loses none from before the checkpoint.
    `metrics` are those of a validation at this step; retention judges by them, and values that are not finite are none.
    `check` raises where we must not write; asked before the first change and before the manifest.
    """
    check()
    folder = _free_folder(store, state.step)
    files = {
        "tensors.safetensors": safetensors.torch.save(state.tensors),
        "state.json": canonical_json({"step": state.step, "scalars": state.scalars, "meta": meta}),
        UNSENT: unsent,
    }
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": state.step,
        "state_digest": state.digest(),
        "dataset_digest": meta.get("dataset_digest"),
        "order_hash": meta.get("order_hash"),
        "config_digest": meta.get("config_digest"),
        "metrics": {name: value for name, value in (metrics or {}).items() if math.isfinite(value)},
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
    }
    # A leftover of an earlier attempt must not vouch for the files that are about to change.
    store.delete(f"{folder}/{MANIFEST}")
    store.delete(f"{folder}/{ABANDONED}")
    for name, data in files.items():
        store.write(f"{folder}/{name}", data)
    check()
    store.write(f"{folder}/{MANIFEST}", canonical_json(manifest))
    return Checkpoint(state.step, folder, manifest)


def _free_folder(store: Store, step: int) -> str:
    """Where to store this step: the folder of its name, or beside it where that is pinned."""
    name, pinned, number = folder_of(step), pins.pinned_folders(store), 1
    folder = name
    while folder in pinned:
        number += 1
        folder = f"{name}.{number}"
    return folder


def committed(store: Store, *, abandoned: bool = False) -> list[Checkpoint]:
    """All checkpoints of a run that have a manifest, oldest first. Their files are not read.

    Those the run went back behind (`abandon`) are left out unless asked for. Of a step that was stored twice, the one
    stored last comes last.
    """
    found = []
    for folder, names in _folders(store).items():
        if MANIFEST not in names or (ABANDONED in names and not abandoned):
            continue
        try:
            manifest = json.loads(store.read(f"{folder}/{MANIFEST}"))
        except (NotFound, ValueError):
            # Deleted since it was listed, or damaged: either way no checkpoint to rely on.
            continue
        if isinstance(manifest, dict) and manifest.get("format_version") == FORMAT_VERSION:
            found.append(Checkpoint(int(manifest["step"]), folder, manifest))
    return sorted(found, key=lambda checkpoint: _order(checkpoint.key))


def _folders(store: Store) -> dict[str, set[str]]:
    """Names of the files in each folder of a checkpoint, whole or not."""
    folders: dict[str, set[str]] = {}
    for entry in store.list("step-"):
        folder, _, name = entry.key.partition("/")
        if _FOLDER.fullmatch(folder):
            folders.setdefault(folder, set()).add(name)
    return folders


def _order(folder: str) -> tuple[int, int]:
    """(step, how often it was stored before) of a folder."""
    found = _FOLDER.fullmatch(folder)
    assert found is not None
    return int(found[1]), int(found[2] or 1)


def read(store: Store, checkpoint: Checkpoint) -> Loaded:
    """Everything in it, verified. Raises `RunFailed` where a file is missing or not what the manifest says."""
    files = {}
    for name, facts in checkpoint.manifest["files"].items():
        try:
            data = store.read(f"{checkpoint.key}/{name}")
        except NotFound as error:
            raise RunFailed(f"checkpoint {store.address}/{checkpoint.key}: {name} is missing") from error
        if len(data) != facts["bytes"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
            raise RunFailed(
                f"checkpoint {store.address}/{checkpoint.key}: {name} is damaged "
                f"({len(data)} bytes, need {facts['bytes']} with sha256 {facts['sha256'][:12]}…)"
            )
        files[name] = data
    loaded = json.loads(files["state.json"])
    state = State(loaded["step"], safetensors.torch.load(files["tensors.safetensors"]), loaded["scalars"])
    return Loaded(checkpoint, state, loaded["meta"], files[UNSENT])


def newest_good(store: Store) -> Loaded | None:
    """The newest checkpoint whose digests hold; damaged ones are passed over with a warning. None where none is."""
    for checkpoint in reversed(committed(store)):
        try:
            return read(store, checkpoint)
        except RunFailed as error:
            log.warning("%s; falling back to the one before", error)
    return None


def open_address(address: str) -> tuple[Store, Checkpoint]:
    """A checkpoint by its address: a run's folder (then the newest) or one `…/step-NNNNNNNN` folder."""
    from trainplane.storage import open_store

    parent, _, last = address.rstrip("/").rpartition("/")
    store = open_store(parent if last.startswith("step-") else address)
    named = last.startswith("step-")
    candidates = [c for c in committed(store, abandoned=named) if not named or c.key == last]
    if not candidates:
        raise UserError(
            f"{address}: no checkpoint there (no manifest.json); "
            "give a run's checkpoint folder or one of its step-NNNNNNNN folders"
        )
    return store, candidates[-1]


def delete(store: Store, folder: str) -> None:
    """Take one checkpoint away, its manifest first: a half-deleted checkpoint does not exist."""
    store.delete(f"{folder}/{MANIFEST}")
    for entry in list(store.list(f"{folder}/")):
        store.delete(entry.key)


def abandon(store: Store, folder: str) -> None:
    """The run went back behind this checkpoint: it goes, or where it is pinned, no run goes on from it any more."""
    if folder in pins.pinned_folders(store):
        store.write(f"{folder}/{ABANDONED}", b"")
    else:
        delete(store, folder)


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
    pinned_steps = {_order(folder)[0] for folder in pinned}
    stays = keep(steps, metrics=values, pins=pinned_steps, rules=rules, damaged=damaged)
    gone = {c.key for c in present if c.step not in stays}
    # What a kill left half written or half removed (ours is committed, and nobody else writes here), and what the run
    # went back behind and nobody needs any more.
    rest = {folder for folder, names in _folders(store).items() if MANIFEST not in names or ABANDONED in names}
    gone |= rest - {checkpoint.key for checkpoint in present}
    removed = sorted(gone - pinned)
    for folder in removed:
        delete(store, folder)
    return removed


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
                f"({self._error}); mend the store and run the same command again: it resumes from the last good one"
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
            log.warning("checkpoint at step %d could not be stored: %s", state.step, error)
            return
        self._failures_in_a_row = 0
        self._written.add(state.step)
        try:
            tidy(self.store, self.rules, since=self._since, written=self._written)
        except (StorageError, OSError) as error:
            log.warning("old checkpoints could not be deleted: %s", error)
