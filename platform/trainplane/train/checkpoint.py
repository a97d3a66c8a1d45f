"""Checkpoints: `RUN/step-00001000/{tensors.safetensors, state.json, manifest.json}`, manifest last.

A checkpoint exists when its manifest does, and is good when the digests in the manifest hold. Writing happens in a
thread and never stops training: a failed upload is retried by the store, then counted, and only when the budget of
failures in a row is spent does the run fail. This is the one checkpoint authority; Ray's own is not used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch

from trainplane.config import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, StorageError, Store
from trainplane.train.state import State

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
UNSENT = "unsent.spool"


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint: its step, its folder inside the run, and what the manifest says."""

    step: int
    key: str
    manifest: dict[str, Any]

    @property
    def state_digest(self) -> str:
        return str(self.manifest["state_digest"])


def folder_of(step: int) -> str:
    return f"step-{step:08d}"


@dataclass(frozen=True)
class Loaded:
    """What a checkpoint holds: the state, its `meta`, and records that the tracking server had not acknowledged."""

    checkpoint: Checkpoint
    state: State
    meta: dict[str, Any]
    unsent: bytes


def write(store: Store, state: State, *, meta: dict[str, Any], unsent: bytes = b"") -> Checkpoint:
    """Store one checkpoint, manifest last.

    `meta` is what a reader needs beside the tensors: the whole configuration, dataset digest, order hash. `unsent`
    are tracking records that only this node has: carried here, a lost node loses none from before the checkpoint.
    """
    folder = folder_of(state.step)
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
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
        },
    }
    # A leftover of an earlier attempt must not vouch for the files that are about to change.
    store.delete(f"{folder}/{MANIFEST}")
    for name, data in files.items():
        store.write(f"{folder}/{name}", data)
    store.write(f"{folder}/{MANIFEST}", canonical_json(manifest))
    return Checkpoint(state.step, folder, manifest)


def committed(store: Store) -> list[Checkpoint]:
    """All checkpoints of a run that have a manifest, oldest first. Their files are not read."""
    found = []
    for entry in store.list():
        folder, _, name = entry.key.partition("/")
        if name == MANIFEST and folder.startswith("step-"):
            try:
                manifest = json.loads(store.read(entry.key))
            except (NotFound, ValueError):
                # Deleted since it was listed, or damaged: either way no checkpoint to rely on.
                continue
            if isinstance(manifest, dict) and manifest.get("format_version") == FORMAT_VERSION:
                found.append(Checkpoint(int(manifest["step"]), folder, manifest))
    return sorted(found, key=lambda checkpoint: checkpoint.step)


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
    candidates = [c for c in committed(store) if not last.startswith("step-") or c.key == last]
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


def doomed(steps: list[int], *, keep: int) -> list[int]:
    """Pure retention: which of these steps to delete. The newest `keep` stay."""
    return sorted(steps)[: max(0, len(steps) - keep)]


@dataclass
class Writer:
    """Writes checkpoints behind the training's back, one at a time, in rank 0.

    failures_allowed -- uploads in a row that may fail before `save` raises `RunFailed`
    """

    store: Store
    keep: int
    failures_allowed: int = 3
    stall_s: float = 0.0
    failed: int = 0
    last: Checkpoint | None = None
    _thread: threading.Thread | None = field(default=None, repr=False)
    _failures_in_a_row: int = 0
    _error: BaseException | None = field(default=None, repr=False)

    def save(self, state: State, *, meta: dict[str, Any], unsent: bytes = b"") -> None:
        """Start storing `state`; waits for the previous one first. The waiting is counted in `stall_s`."""
        self.wait()
        self._raise_when_spent()
        self._thread = threading.Thread(target=self._work, args=(state, meta, unsent), name="checkpoint", daemon=True)
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

    def _raise_when_spent(self) -> None:
        if self._failures_in_a_row > self.failures_allowed:
            raise RunFailed(
                f"{self._failures_in_a_row} checkpoints in a row could not be stored in {self.store.address} "
                f"({self._error}); mend the store and run the same command again: it resumes from the last good one"
            )

    def _work(self, state: State, meta: dict[str, Any], unsent: bytes) -> None:
        try:
            self.last = write(self.store, state, meta=meta, unsent=unsent)
        # Whatever it was, training goes on and the failure counts; lost in a thread it would look like a success.
        except Exception as error:
            self.failed += 1
            self._failures_in_a_row += 1
            self._error = error
            log.warning("checkpoint at step %d could not be stored: %s", state.step, error)
            return
        self._failures_in_a_row = 0
        try:
            for step in doomed([checkpoint.step for checkpoint in committed(self.store)], keep=self.keep):
                delete(self.store, folder_of(step))
        except (StorageError, OSError) as error:
            log.warning("old checkpoints could not be deleted: %s", error)
