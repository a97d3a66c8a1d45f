"""Begins a run at weights or the state of another.

The start (`train.start_from`) is found once, and its digest is part of what the run is. Its weights are read when the
run is prepared, and copied into its folder, `RUN/start/{tensors.safetensors, manifest.json}`, manifest last: there
every rank and every later attempt finds them, even when the parent is gone. A whole state becomes a checkpoint.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import safetensors.torch

from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.config.load import build
from trainplane.data.mixture import TrainingData
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, Store, open_store
from trainplane.task import Task, load_task
from trainplane.train.checkpoint.content import parse_object, parse_tensors
from trainplane.train.checkpoint.resume import check_not_beyond
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import RunDir, run_key
from trainplane.train.start.checkpoint import copy_state, pin_checkpoint, read_checkpoint
from trainplane.train.start.grown import check_state_said
from trainplane.train.start.weights import StartReport, StartWeights

ConfigT = TypeVar("ConfigT", bound=RunConfig)

_TENSORS, _MANIFEST = "start/tensors.safetensors", "start/manifest.json"
# Settings of section `train` that say where a run begins.
_SETTINGS = ("start_from", "start_from_digest", "start_from_strict", "start_state")


@dataclass(frozen=True)
class PreparedStart:
    """A start that was read and fits."""

    report: StartReport
    write: Callable[[], None]  # Stores what the ranks read


def located_start(config: ConfigT, context: Context) -> ConfigT:
    """Adds the start's permanent address and digest to `config`."""
    train = config.train
    # With a digest it was found before; reading checks it.
    if train.start_from is None or train.start_from_digest is not None:
        return config
    source = load_task(config.task).find_start(train.start_from, context)
    located = {"start_from": source.address, "start_from_digest": source.digest}
    return config.model_copy(update={"train": train.model_copy(update=located)})


def prepare_start(config: RunConfig, context: Context, run_dir: RunDir, data: TrainingData) -> PreparedStart | None:
    """Reads and checks a run's start, if it has one.

    Raises `UserError` where it does not fit. Writes nothing.
    """
    train, store = config.train, open_store(run_dir.address)
    if train.start_from is None:
        return None
    if (stored := _stored_manifest(store)) is not None:
        return PreparedStart(StartReport.from_json(stored["report"]), lambda: None)
    by = f"run {run_dir.folder}"
    if train.start_state == "all":
        loaded = read_checkpoint(train.start_from)
        _check_digest(train.start_from, loaded.checkpoint.state_digest, config)
        check_not_beyond(loaded.state.step, config)
        check_state_said(config, data, train.start_from, loaded.meta.get("dataset_digest"))
        report = StartReport(
            train.start_from,
            loaded.checkpoint.state_digest,
            {"the whole state": f"networks, optimisers and counters after {loaded.state.step} steps"},
            step=loaded.state.step,
        )
        task_class = load_task(config.task)

        def write_state() -> None:
            pin_checkpoint(report.address, by=by)
            copy_state(loaded, store, config=config, task_class=task_class, data=data)
            store.write(_MANIFEST, canonical_json({"report": report.to_json(), "files": {}}))

        return PreparedStart(report, write_state)
    weights = load_task(config.task).read_start(config, context)
    _check_digest(train.start_from, weights.digest, config)
    _check_not_itself(config, data.digest, weights)
    report = load_task(config.task).plan_start(config, weights)

    def write_weights() -> None:
        pin_checkpoint(report.address, by=by)
        _store(store, weights, report)

    return PreparedStart(report, write_weights)


def begin_at_start(task: Task, store: Store, config: RunConfig) -> str:
    """Loads a run's start into a task and describes it."""
    if config.train.start_state == "all":
        raise RunFailed(
            f"{store.address} has none of its checkpoints any more, not even the state that the run began at; "
            "restore them, or branch again"
        )
    weights, report = _read(store, config)
    task.begin_at(weights)
    return str(report)


def run_with_another_start(config: RunConfig, context: Context, dataset_digest: str, val_digest: str | None) -> str:
    """Names a run that differs in its start only."""
    store, prefix = open_store(context.checkpoints), f"{config.name}-"
    for entry in store.list(prefix):
        folder, _, name = entry.key.partition("/")
        if name != "run.json":
            continue
        try:
            about = parse_object(store.read(entry.key))
            theirs = build(type(config), about["config"]).train
        # Of another version, or deleted meanwhile.
        except (ValueError, LookupError):
            continue
        moved = {name: getattr(theirs, name) for name in _SETTINGS}
        same = config.model_copy(update={"train": config.train.model_copy(update=moved)})
        key = str(about.get("key", "")).partition(".")[0]
        if theirs.start_from_digest != config.train.start_from_digest and key == run_key(
            same, dataset_digest, val_digest
        ):
            return f"{folder}, which began at {theirs.start_from or 'fresh weights'}"
    return ""


def _check_digest(address: str, digest: str, config: RunConfig) -> None:
    if digest != config.train.start_from_digest:
        raise UserError(
            f"train.start_from={address} has digest {digest} now, and train.start_from_digest is "
            f"{config.train.start_from_digest}; restore it, or leave the digest out to begin at what is there now"
        )


def _check_not_itself(config: RunConfig, dataset_digest: str, weights: StartWeights) -> None:
    if weights.meta.get("dataset_digest") != dataset_digest:
        return
    try:
        theirs = _identity_without_start(build(type(config), weights.meta["config"]))
    # Of another version, so of another run.
    except (ValueError, LookupError, TypeError):
        return
    if theirs == _identity_without_start(config):
        branch = command_line("runs", "branch", "RUN", "a.b=c")
        raise UserError(
            f"train.start_from={config.train.start_from} is of this run itself, with the same settings and data; "
            f"leave train.start_from out to go on with it, or change a setting (`{branch}` keeps its whole state)"
        )


def _identity_without_start(config: RunConfig) -> dict[str, Any]:
    identity = config.identity()
    return {**identity, "train": {name: v for name, v in identity["train"].items() if name not in _SETTINGS}}


def _store(store: Store, weights: StartWeights, report: StartReport) -> None:
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.tensors.items()})
    manifest = {
        "report": report.to_json(),
        "about": weights.about,
        "files": {_TENSORS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}},
    }
    store.write(_TENSORS, data)
    store.write(_MANIFEST, canonical_json(manifest))


def _stored_manifest(store: Store) -> dict[str, Any] | None:
    try:
        return parse_object(store.read(_MANIFEST))
    except NotFound:
        return None
    except ValueError as error:
        raise _damaged(store, _MANIFEST) from error


def _read(store: Store, config: RunConfig) -> tuple[StartWeights, StartReport]:
    """Weights and report that `_store` wrote, checked."""
    manifest = _stored_manifest(store)
    try:
        data = store.read(_TENSORS) if manifest is not None else b""
        if manifest is None or hashlib.sha256(data).hexdigest() != manifest["files"][_TENSORS]["sha256"]:
            raise ValueError
        tensors, report = parse_tensors(data), StartReport.from_json(manifest["report"])
    except (ValueError, LookupError, TypeError) as error:
        raise _damaged(store, _TENSORS) from error
    if report.digest != config.train.start_from_digest:
        raise _damaged(store, _MANIFEST)
    return StartWeights(tensors, report.digest, manifest["about"]), report


def _damaged(store: Store, name: str) -> RunFailed:
    return RunFailed(
        f"{store.address}/{name} is missing or damaged; delete that folder's start and run the command again"
    )
