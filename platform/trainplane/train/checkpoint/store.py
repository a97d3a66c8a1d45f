"""Checkpoints: `RUN/step-00001000/{tensors.safetensors, state.json, manifest.json}`, manifest last.

A checkpoint exists when its manifest does, and is good when the digests in the manifest hold. This is the one
checkpoint authority; Ray's own is not used.

The manifest bears a digest of itself, so that no flipped byte of it is believed, least of all one that would blame the
data or the user. Those from before it did are believed where what they repeat agrees with the files.

A folder that is pinned (`pins`) is neither removed nor written again: where its step is stored once more, the new one
lies beside it as `step-00001000.2`. Not covered: when they are written, by whom (`writer`), which stay (`retention`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import safetensors
import safetensors.torch

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, StorageError, Store
from trainplane.train.checkpoint import pins
from trainplane.train.checkpoint.state import State

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
UNSENT = "unsent.spool"
FILES = {"tensors.safetensors", "state.json", UNSENT}
ABANDONED = "abandoned"
_DIGEST = "manifest_digest"
# What is in `meta` once more.
_REPEATED = ("dataset_digest", "order_hash", "config_digest")
# All that a manifest without a digest of itself may hold: under another name, a digest would be none.
_WITHOUT_DIGEST = {"format_version", "step", "state_digest", *_REPEATED, "metrics", "files"}
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
    """What a checkpoint holds: the state, its `meta`, and records that the tracking server had not acknowledged.

    damaged -- why newer checkpoints were passed over for this one
    """

    checkpoint: Checkpoint
    state: State
    meta: dict[str, Any]
    unsent: bytes
    damaged: tuple[str, ...] = ()


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
    manifest[_DIGEST] = _digest_of(manifest)
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
    return [found for found in _with_manifest(store, abandoned=abandoned).values() if found is not None]


def _with_manifest(store: Store, *, abandoned: bool = False) -> dict[str, Checkpoint | None]:
    """By folder, oldest first, what `committed` is about; None where the manifest is none of ours."""
    found: dict[str, Checkpoint | None] = {}
    for folder, names in sorted(folders_of(store).items(), key=lambda item: order_of(item[0])):
        if MANIFEST not in names or (ABANDONED in names and not abandoned):
            continue
        try:
            manifest = json.loads(store.read(f"{folder}/{MANIFEST}"))
            is_ours = _is_manifest(manifest, step=order_of(folder)[0])
        except NotFound:
            # Deleted since it was listed.
            continue
        except ValueError:
            is_ours = False
        found[folder] = Checkpoint(manifest["step"], folder, manifest) if is_ours else None
    return found


def _is_manifest(found: Any, *, step: int) -> bool:
    """Whether it is what `write` writes last, byte for byte, and for this step: a copy under another name is none."""
    if not isinstance(found, dict) or (found.get("format_version"), found.get("step")) != (FORMAT_VERSION, step):
        return False
    if found[_DIGEST] != _digest_of(found) if _DIGEST in found else not found.keys() <= _WITHOUT_DIGEST:
        return False
    files = found.get("files")
    if not isinstance(found.get("state_digest"), str) or not isinstance(files, dict) or not files.keys() >= FILES:
        return False
    return all(isinstance(facts, dict) and facts.keys() >= {"bytes", "sha256"} for facts in files.values())


def _digest_of(manifest: dict[str, Any]) -> str:
    """sha256 over the canonical JSON of everything but the digest itself."""
    content = {name: value for name, value in manifest.items() if name != _DIGEST}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def folders_of(store: Store) -> dict[str, set[str]]:
    """Names of the files in each folder of a checkpoint, whole or not."""
    folders: dict[str, set[str]] = {}
    for entry in store.list("step-"):
        folder, _, name = entry.key.partition("/")
        if _FOLDER.fullmatch(folder):
            folders.setdefault(folder, set()).add(name)
    return folders


def order_of(folder: str) -> tuple[int, int]:
    """(step, how often it was stored before) of a folder."""
    found = _FOLDER.fullmatch(folder)
    assert found is not None
    return int(found[1]), int(found[2] or 1)


def read(store: Store, checkpoint: Checkpoint) -> Loaded:
    """Everything in it, verified. Raises `RunFailed` where a file is missing or not what the manifest says."""
    files = {name: _verified(store, checkpoint, name) for name in checkpoint.manifest["files"]}
    loaded = json.loads(files["state.json"])
    _check_repeated(store, checkpoint, loaded["meta"])
    state = State(loaded["step"], safetensors.torch.load(files["tensors.safetensors"]), loaded["scalars"])
    # A pass over all tensors, for want of the manifest's own digest alone.
    if _DIGEST not in checkpoint.manifest and state.digest() != checkpoint.state_digest:
        raise _damaged_manifest(store, checkpoint.key)
    return Loaded(checkpoint, state, loaded["meta"], files[UNSENT])


def read_meta(store: Store, checkpoint: Checkpoint) -> dict[str, Any]:
    """What it was made from, verified, without its tensors. Raises `RunFailed` as `read` does."""
    meta: dict[str, Any] = json.loads(_verified(store, checkpoint, "state.json"))["meta"]
    _check_repeated(store, checkpoint, meta)
    return meta


def _verified(store: Store, checkpoint: Checkpoint, name: str) -> bytes:
    facts = checkpoint.manifest["files"][name]
    try:
        data = store.read(f"{checkpoint.key}/{name}")
    except NotFound as error:
        raise RunFailed(f"checkpoint {store.address}/{checkpoint.key}: {name} is missing") from error
    if len(data) != facts["bytes"] or hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise RunFailed(
            f"checkpoint {store.address}/{checkpoint.key}: {name} is damaged "
            f"({len(data)} bytes, need {facts['bytes']} with sha256 {str(facts['sha256'])[:12]}…)"
        )
    return data


def _check_repeated(store: Store, checkpoint: Checkpoint, meta: Mapping[str, Any]) -> None:
    for name in _REPEATED:
        if checkpoint.manifest.get(name, meta.get(name)) != meta.get(name):
            raise _damaged_manifest(store, checkpoint.key)


def _damaged_manifest(store: Store, folder: str) -> RunFailed:
    return RunFailed(f"checkpoint {store.address}/{folder}: {MANIFEST} is damaged, or of another version")


def newest_good(store: Store) -> Loaded | None:
    """The newest checkpoint whose digests hold, None where there is none; it says which newer ones are damaged.

    Raises `RunFailed` where all are damaged: to begin anew unasked would throw away what they stand for.
    """
    damaged: list[str] = []
    for folder, checkpoint in reversed(_with_manifest(store).items()):
        try:
            if checkpoint is None:
                raise _damaged_manifest(store, folder)
            return replace(read(store, checkpoint), damaged=tuple(damaged))
        except StorageError:
            # A store that does not answer says nothing about the checkpoint.
            raise
        except RunFailed as error:
            log.warning("%s; looking at the one before", error)
            damaged.append(str(error))
    if damaged:
        raise RunFailed(
            f"{damaged[0]}; none of the run's {len(damaged)} checkpoints can be read: "
            "put back what was there, or start anew with --fresh"
        )
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
            f"{address}: no checkpoint there (no manifest.json, or a damaged one); "
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
