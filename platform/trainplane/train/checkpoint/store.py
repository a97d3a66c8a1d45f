"""Format of checkpoints: files in `RUN/step-00001000/`.

The files are `tensors.safetensors`, `state.json` and `unsent.spool`; `manifest.json` is written last. A checkpoint
exists when its manifest does, and is good when the files match the manifest's digests. Ray's own are not used.

The manifest holds a digest of itself, so no flipped byte of it is trusted. Older manifests without that digest are
trusted where the values they repeat agree with the files. A pinned folder (`pins`) is neither deleted nor overwritten:
a step stored again goes beside it as `step-00001000.2`.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.storage import NotFound, StorageError, Store
from trainplane.train.checkpoint import pins
from trainplane.train.checkpoint.content import StateFile, parse_object, parse_state, parse_tensors

# Functions import what loads torch: lists of checkpoints do without.
if TYPE_CHECKING:
    from trainplane.train.checkpoint.state import TrainingState

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
UNSENT = "unsent.spool"
FILES = {"tensors.safetensors", "state.json", UNSENT}
# Marks a pinned checkpoint that a roll-back passed.
ABANDONED = "abandoned"
_DIGEST = "manifest_digest"
# Values of `meta` that the manifest repeats.
_REPEATED = ("dataset_digest", "order_hash", "config_digest")
# All keys of a manifest without a digest of itself. With any other key it is damaged: perhaps the digest's own name.
_WITHOUT_DIGEST = {"format_version", "step", "state_digest", *_REPEATED, "metrics", "files"}
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_FOLDER = re.compile(r"step-(\d{8,})(?:\.(\d+))?")

Folders: TypeAlias = dict[str, dict[str, str]]
"""Stamps of the files of each checkpoint's folder, by folder and file name; the oldest folder is first."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    step: int  # Global steps done
    key: str  # Its folder inside the run's folder
    manifest: dict[str, Any]  # Content of `manifest.json`

    @property
    def state_digest(self) -> str:
        """Digest of the training state."""
        return str(self.manifest["state_digest"])

    @property
    def metrics(self) -> dict[str, float]:
        """Metrics of the validation at this step, if any."""
        return dict(self.manifest.get("metrics", {}))


def folder_of(step: int) -> str:
    """Folder of the first checkpoint of a step."""
    return f"step-{step:08d}"


@dataclass(frozen=True)
class LoadedCheckpoint:
    """Content of a checkpoint."""

    checkpoint: Checkpoint  # The checkpoint
    state: TrainingState  # The training state
    meta: dict[str, Any]  # Configuration, digests and the loop's own state
    unsent: bytes  # Records that the tracking server had not acknowledged
    damaged: tuple[str, ...] = ()  # Messages about newer checkpoints that were skipped because they are damaged


def write(
    store: Store,
    state: TrainingState,
    *,
    meta: dict[str, Any],
    unsent: bytes = b"",
    metrics: Mapping[str, float] | None = None,
    check: Callable[[], None] = lambda: None,
) -> Checkpoint:
    """Stores one checkpoint, manifest last.

    Args:
        store: The run's folder.
        state: The training state.
        meta: Data beside the tensors: the whole configuration, dataset digest, order hash.
        unsent: Tracking records that only this node has, to survive its loss.
        metrics: Validation metrics at this step, for retention; values that are not finite are left out.
        check: Raises where this process must not write. Called before the first change and before the manifest.
    """
    import safetensors.torch

    # Serialise everything, then compute the digests of the manifest.
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
    # The manifest of an earlier attempt must not stand for the files that are about to change.
    store.delete(f"{folder}/{MANIFEST}")
    store.delete(f"{folder}/{ABANDONED}")
    for name, data in files.items():
        store.write(f"{folder}/{name}", data)
    # The manifest makes the checkpoint exist, so ask once more whether this attempt may write.
    check()
    store.write(f"{folder}/{MANIFEST}", canonical_json(manifest))
    return Checkpoint(state.step, folder, manifest)


def _free_folder(store: Store, step: int) -> str:
    """First folder of a step that has no pin."""
    # step-00001000, then step-00001000.2, ….
    name, pinned, number = folder_of(step), pins.pinned_folders(store), 1
    folder = name
    while folder in pinned:
        number += 1
        folder = f"{name}.{number}"
    return folder


def committed(store: Store, *, abandoned: bool = False) -> list[Checkpoint]:
    """Checkpoints that have a manifest, oldest first.

    Reads no other files. A step that was stored twice has the later one last. `abandoned` includes rolled-back ones.
    """
    return list(newest_first(store, abandoned=abandoned))[::-1]


def newest_first(store: Store, *, abandoned: bool = False) -> Iterator[Checkpoint]:
    """Yields what `committed` returns, newest first, one by one."""
    for _, checkpoint in _with_manifest(store, folders_of(store), abandoned=abandoned):
        if checkpoint is not None:
            yield checkpoint


class Manifests:
    """Checkpoints of one run, whose manifests are read once.

    A manifest that was written again has another stamp.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], Checkpoint | None] = {}

    def committed(self, folders: Folders) -> list[Checkpoint]:
        """Checkpoints among listed folders, as `committed`."""
        listed = {(folder, names[MANIFEST]) for folder, names in folders.items() if MANIFEST in names}
        self._known = {key: checkpoint for key, checkpoint in self._known.items() if key in listed}
        newest_first = list(_with_manifest(self._store, folders, cache=self._known))
        return [checkpoint for _, checkpoint in reversed(newest_first) if checkpoint is not None]


def _with_manifest(
    store: Store,
    folders: Folders,
    *,
    abandoned: bool = False,
    cache: MutableMapping[tuple[str, str], Checkpoint | None] | None = None,
) -> Iterator[tuple[str, Checkpoint | None]]:
    """Yields newest folders first; None for a damaged manifest."""
    cache = {} if cache is None else cache
    for folder, names in reversed(folders.items()):
        if MANIFEST not in names or (ABANDONED in names and not abandoned):
            continue
        key = (folder, names[MANIFEST])
        try:
            cache[key] = cache[key] if key in cache else _read_manifest(store, folder)
        except NotFound:
            # Deleted after it was listed.
            continue
        yield folder, cache[key]


def _read_manifest(store: Store, folder: str) -> Checkpoint | None:
    data = store.read(f"{folder}/{MANIFEST}")
    try:
        manifest = parse_object(data)
        is_valid = _is_manifest(manifest, step=order_of(folder)[0])
    except ValueError:
        is_valid = False
    return Checkpoint(manifest["step"], folder, manifest) if is_valid else None


def _is_manifest(value: dict[str, Any], *, step: int) -> bool:
    """Validates a manifest for the step of its folder."""
    if type(value.get("step")) is not int or (value.get("format_version"), value.get("step")) != (FORMAT_VERSION, step):
        return False
    # Its own digest must hold; without one, every key must be known.
    if value[_DIGEST] != _digest_of(value) if _DIGEST in value else not value.keys() <= _WITHOUT_DIGEST:
        return False
    # Complete: all files, each with size and digest.
    files = value.get("files")
    if not isinstance(value.get("state_digest"), str) or not isinstance(files, dict) or not files.keys() >= FILES:
        return False
    return all(_FILE.fullmatch(name) and _is_entry(entry) for name, entry in files.items())


def _is_entry(entry: Any) -> bool:
    """Validates size and digest of a file."""
    return (
        isinstance(entry, dict)
        and entry.keys() >= {"bytes", "sha256"}
        and type(entry["bytes"]) is int
        and entry["bytes"] >= 0
        and isinstance(entry["sha256"], str)
    )


def _digest_of(manifest: dict[str, Any]) -> str:
    """Digest over the canonical JSON of everything but itself."""
    content = {name: value for name, value in manifest.items() if name != _DIGEST}
    return hashlib.sha256(canonical_json(content)).hexdigest()


def folders_of(store: Store) -> Folders:
    """Lists the folders of checkpoints, complete or not."""
    folders: Folders = {}
    for entry in store.list("step-"):
        folder, _, name = entry.key.partition("/")
        if _FOLDER.fullmatch(folder):
            folders.setdefault(folder, {})[name] = entry.stamp
    return dict(sorted(folders.items(), key=lambda item: order_of(item[0])))


def order_of(folder: str) -> tuple[int, int]:
    """Step of a folder, and the number of its copy."""
    match = _FOLDER.fullmatch(folder)
    assert match is not None
    return int(match[1]), int(match[2] or 1)


def read(store: Store, checkpoint: Checkpoint) -> LoadedCheckpoint:
    """Reads a checkpoint; `RunFailed` where files are missing or damaged."""
    from trainplane.train.checkpoint.state import TrainingState

    # Bytes first, then the values that the manifest repeats.
    files = {name: _verified(store, checkpoint, name) for name in checkpoint.manifest["files"]}
    content = _state_file(store, checkpoint, files["state.json"])
    try:
        tensors = parse_tensors(files["tensors.safetensors"])
    except ValueError as error:
        raise _unsound(store, checkpoint, "tensors.safetensors", error) from error
    state = TrainingState(content.step, tensors, content.scalars)
    # This pass over all tensors is only needed where the manifest has no digest of itself.
    if _DIGEST not in checkpoint.manifest and state.digest() != checkpoint.state_digest:
        raise _damaged_manifest(store, checkpoint.key)
    return LoadedCheckpoint(checkpoint, state, content.meta, files[UNSENT])


def read_meta(store: Store, checkpoint: Checkpoint) -> dict[str, Any]:
    """Reads and verifies `meta` as `read` does, without tensors."""
    return _state_file(store, checkpoint, _verified(store, checkpoint, "state.json")).meta


def _state_file(store: Store, checkpoint: Checkpoint, data: bytes) -> StateFile:
    """Parses `state.json`, and compares it with the manifest."""
    try:
        content = parse_state(data)
    except ValueError as error:
        raise _unsound(store, checkpoint, "state.json", error) from error
    if content.step != checkpoint.step:
        raise _damaged_manifest(store, checkpoint.key)
    _check_repeated(store, checkpoint, content.meta)
    return content


def _verified(store: Store, checkpoint: Checkpoint, name: str) -> bytes:
    # A file is good if size and digest match the manifest.
    expected = checkpoint.manifest["files"][name]
    try:
        # One byte more than it has shows that it is longer; no more is taken into memory.
        data = store.read(f"{checkpoint.key}/{name}", length=expected["bytes"] + 1)
    except NotFound as error:
        raise RunFailed(f"checkpoint {store.address}/{checkpoint.key}: {name} is missing") from error
    if len(data) != expected["bytes"] or hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise RunFailed(
            f"checkpoint {store.address}/{checkpoint.key}: {name} is damaged "
            f"({len(data)} bytes, need {expected['bytes']} with sha256 {str(expected['sha256'])[:12]}…)"
        )
    return data


def _check_repeated(store: Store, checkpoint: Checkpoint, meta: Mapping[str, Any]) -> None:
    for name in _REPEATED:
        if checkpoint.manifest.get(name, meta.get(name)) != meta.get(name):
            raise _damaged_manifest(store, checkpoint.key)


def _unsound(store: Store, checkpoint: Checkpoint, name: str, error: ValueError) -> RunFailed:
    return RunFailed(
        f"checkpoint {store.address}/{checkpoint.key}: {name} is not what training writes ({error_line(error)[:200]}); "
        "give another checkpoint"
    )


def _damaged_manifest(store: Store, folder: str) -> RunFailed:
    return RunFailed(f"checkpoint {store.address}/{folder}: {MANIFEST} is damaged, or of another version")


def newest_good(store: Store) -> LoadedCheckpoint | None:
    """Reads the newest good checkpoint, if there is one.

    Its `damaged` names newer ones that were skipped. Raises `RunFailed` where all are damaged: starting over must be
    asked.
    """
    damaged: list[str] = []
    # Newest first, until one is good.
    for folder, checkpoint in _with_manifest(store, folders_of(store)):
        try:
            if checkpoint is None:
                raise _damaged_manifest(store, folder)
            return replace(read(store, checkpoint), damaged=tuple(damaged))
        except StorageError:
            # A store that does not answer does not make a checkpoint damaged.
            raise
        except RunFailed as error:
            log.warning("%s; trying the one before", error)
            damaged.append(str(error))
    if damaged:
        raise RunFailed(
            f"{damaged[0]}; none of the run's {len(damaged)} checkpoints can be read: "
            "restore their files, or start a new run with --fresh"
        )
    return None


def open_address(address: str) -> tuple[Store, Checkpoint]:
    """Finds a checkpoint by its address.

    The address is one `…/step-NNNNNNNN` folder, or a run's folder, which means its newest checkpoint.
    """
    from trainplane.storage import open_store

    # An abandoned checkpoint can still be read by its own address.
    parent, _, last = address.rstrip("/").rpartition("/")
    is_folder = last.startswith("step-")
    store = open_store(parent if is_folder else address)
    present = newest_first(store, abandoned=is_folder)
    checkpoint = next((c for c in present if not is_folder or c.key == last), None)
    if checkpoint is None:
        raise UserError(
            f"{address}: no checkpoint there (no manifest.json, or a damaged one); "
            "give a run's checkpoint folder or one of its step-NNNNNNNN folders"
        )
    return store, checkpoint


def delete(store: Store, folder: str, *, check: Callable[[], None] = lambda: None) -> None:
    """Deletes a checkpoint; `check` as for `write`, before every removal."""
    # Its manifest goes first, so a half-deleted checkpoint does not exist.
    check()
    store.delete(f"{folder}/{MANIFEST}")
    for entry in list(store.list(f"{folder}/")):
        check()
        store.delete(entry.key)


def abandon(store: Store, folder: str, *, check: Callable[[], None] = lambda: None) -> None:
    """Removes a checkpoint that a roll-back passed."""
    # A pinned one stays, but it is marked so that no run resumes from it.
    if folder in pins.pinned_folders(store):
        check()
        store.write(f"{folder}/{ABANDONED}", b"")
    else:
        delete(store, folder, check=check)
