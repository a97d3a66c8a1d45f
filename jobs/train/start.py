"""Begins a training of ISNet at other weights: `train.start_from`.

A registered version is read from the checkpoint that it was made of, if that is still there: it has the raw weights of
spectral norm, and the discriminator. Otherwise its exported weights are taken, which have spectral norm folded in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from isnet.formats.released import load
from isnet.generator import GENERATORS, Architecture
from isnet.training.start import load_weights, match_weights
from isnet.weights import CONFIG, load_model
from jobs import starter
from jobs.evaluation.model_address import STARTER, complete_address
from jobs.registry.promoted_version import promoted_version
from trainplane.cluster.context import Context
from trainplane.errors import RunFailed, UserError
from trainplane.registry.find_version import find_version
from trainplane.registry.package import data_of, download
from trainplane.registry.recorded import PREFIX
from trainplane.registry.versions import ModelVersion
from trainplane.storage import StorageError
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.checkpoint.store import open_address
from trainplane.train.start.checkpoint import find_checkpoint, read_networks
from trainplane.train.start.weights import StartReport, StartSource, StartWeights

if TYPE_CHECKING:
    from jobs.isnet_task import ISNetTask

# They change what is computed only at the beginning, or are of another network.
_OF_FRESH_WEIGHTS = ("init_std", "init")
_AUTHOR, _MODELS = "author:", "models:/"


def find(typed: str, context: Context) -> StartSource:
    """Finds a start's permanent address and its digest."""
    if typed.startswith(("classical:", "untrained:")):
        raise UserError(
            f"train.start_from={typed} has no trained weights; give a registered model, a run, a checkpoint, "
            "author:PATH or starter"
        )
    if typed.startswith(_AUTHOR):
        path = Path(typed.removeprefix(_AUTHOR)).expanduser().resolve()
        return StartSource(f"{_AUTHOR}{path}", _of_release(path).digest)
    if typed == STARTER:
        return StartSource(STARTER, _starter_digest())
    address = complete_address(typed, context)
    if not address.startswith(_MODELS):
        return find_checkpoint(address, context)
    version = promoted_version(context, address)
    if _checkpoint_of(version) is not None:
        return StartSource(version.address, version.tags[PREFIX + "state_digest"])
    if version.model_digest is None:
        raise UserError(
            f"train.start_from={version.address} was not registered here: it has no digest; register it again"
        )
    return StartSource(version.address, version.model_digest)


def read(config: Any, context: Context) -> StartWeights:
    """Reads the networks of a start that `find` found."""
    address = config.train.start_from
    if address.startswith(_AUTHOR):
        return _of_release(Path(address.removeprefix(_AUTHOR)))
    if address == STARTER:
        return _exported(starter.FOLDER, _starter_digest(), "the starter's")
    if address.startswith(_MODELS):
        version = find_version(context.tracking_server, address)
        if (checkpoint := _checkpoint_of(version)) is None:
            folder = download(version, context.home / "cache" / "models")
            return _exported(data_of(folder), str(version.model_digest))
        return _of_checkpoint(checkpoint, config.task)
    return _of_checkpoint(address, config.task)


def _of_release(path: Path) -> StartWeights:
    """Networks of a released checkpoint, of any method."""
    released = load(path)
    if "generator" not in released.networks:
        raise UserError(
            f"train.start_from={_AUTHOR}{path} holds a discriminator of {released.method}; give the generator's file"
        )
    tensors = {
        f"module/{network}/{name}": value
        for network, state in released.networks.items()
        for name, value in state.items()
    }
    model = _model({"name": released.method, **released.options})
    # Folded weights do not show whether they had spectral norm; the release trained with it.
    if model.get("spectral_norm") == "none":
        del model["spectral_norm"]
    # One digest for a file or the files of a folder.
    return StartWeights(tensors, TrainingState(0, tensors, {}).digest(), {"model": model, "generator": "released"})


def _model(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of section `model`, from options of `isnet.build`."""
    mask_input = {"mask_input": options["in_channels"] == 4} if "in_channels" in options else {}
    return {**{name: value for name, value in options.items() if name != "in_channels"}, **mask_input}


def _starter_digest() -> str:
    try:
        return starter.digest()
    except (OSError, ValueError, LookupError) as error:
        raise UserError(
            "train.start_from=starter: this installation has no starter model; install the package as it is released, "
            "or give a registered model, a run or a checkpoint"
        ) from error


def _exported(folder: Path, digest: str, how: str = "exported") -> StartWeights:
    network = load_model(folder)
    # The network has its norm folded in; beside it is what it was trained with.
    options = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["architecture"]
    tensors = {f"module/generator/{name}": value for name, value in network.state_dict().items()}
    return StartWeights(tensors, digest, {"model": _model(options), "generator": how})


def _of_checkpoint(address: str, task: str) -> StartWeights:
    weights = read_networks(address, task)
    about = {"model": weights.meta["config"]["model"], "generator": "raw"}
    # The moving average is what the parent's predictions came from.
    if average := weights.of_module("ema"):
        about["generator"] = "its moving average"
        tensors = {name: value for name, value in weights.tensors.items() if not name.startswith("module/ema/")}
        tensors |= {f"module/generator/{name}": value for name, value in average.items()}
        weights = replace(weights, tensors=tensors)
    return replace(weights, about=about)


def _checkpoint_of(version: ModelVersion) -> str | None:
    """Address of a version's checkpoint, if it is still there."""
    address, digest = (version.tags.get(PREFIX + name) for name in ("checkpoint", "state_digest"))
    if address is None or digest is None:
        return None
    try:
        _, checkpoint = open_address(address)
    except (UserError, RunFailed, StorageError, OSError):
        return None
    return address if checkpoint.state_digest == digest else None


def plan(task_class: type[ISNetTask], config: Any, weights: StartWeights) -> StartReport:
    """Reports what `begin` would load; `UserError` if unfit."""
    differing = differing_settings(config.model.model_dump(mode="json"), weights.about["model"])
    strict = config.train.start_from_strict
    if differing and strict:
        theirs = _described(weights.about["model"], differing)
        ours = _described(config.model.model_dump(mode="json"), differing)
        settings = " ".join(f"model.{name}={_yaml(value)}" for name, value in differing.items())
        raise UserError(
            f"train.start_from={config.train.start_from} holds weights of {theirs}, and this run trains {ours}; "
            f"set {settings}, or take what fits with train.start_from_strict=false"
        )
    # VGG's weights are not read for this.
    loss = config.loss.model_copy(update={"perceptual": 0.0, "style": 0.0})
    train = config.train.model_copy(update={"compile": False})
    with torch.device("meta"):
        task = task_class(config.model_copy(update={"loss": loss, "train": train}), torch.device("meta"))
    report = _report(config, weights, task.modules())
    notes = tuple(f"model.{n} is {_yaml(v)} there" for n, v in differing.items())
    return replace(report, unfit=(*notes, *report.unfit)).checked(strict=strict)


def begin(task: ISNetTask, weights: StartWeights) -> None:
    """Loads what fits into the task's networks."""
    modules = task.modules()
    for name, module in modules.items():
        load_weights(module, weights.of_module(name))
    if "ema" in modules:
        modules["ema"].load_state_dict(modules["generator"].state_dict())


def _report(config: Any, weights: StartWeights, modules: Mapping[str, nn.Module]) -> StartReport:
    loaded, fresh, unfit = {}, {"moments of the optimisers": "always"}, list[str]()
    for name, module in modules.items():
        if name == "ema":
            fresh["moving average"] = "begins as the generator"
        elif not (offered := weights.of_module(name)):
            fresh[name] = "the start has none"
        else:
            match = match_weights(module, offered)
            how = f", {weights.about['generator']}" if name == "generator" else ""
            if match.fitting:
                loaded[name] = f"{len(match.fitting)} tensors{how}"
            unfit += [f"{name}: {match}"] if str(match) else []
    return StartReport(config.train.start_from, weights.digest, loaded, fresh, tuple(unfit))


def differing_settings(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of section `model` that change the function.

    Returns theirs by name. A network without spectral norm takes weights that have it: they are folded.
    """
    ours, theirs = _resolved(ours), _resolved(theirs)
    return {
        name: theirs[name]
        for name in ours
        if name in theirs
        and theirs[name] != ours[name]
        and name not in _OF_FRESH_WEIGHTS
        and not (name == "spectral_norm" and ours[name] == "none")
    }


def _resolved(model: Mapping[str, Any]) -> dict[str, Any]:
    # A setting that is left out has its default.
    model = {"coarse": "none", **model}
    # An activation that is not set is the variant's own.
    if model.get("name") not in GENERATORS or "activation" not in model:
        return dict(model)
    activation = Architecture(name=model["name"], activation=model["activation"]).resolved_activation
    return {**model, "activation": activation}


def _described(model: Mapping[str, Any], differing: Mapping[str, Any]) -> str:
    # Name and width always, so that both networks are named.
    resolved = _resolved(model)
    names = dict.fromkeys(["name", "width", *differing])
    return ", ".join(f"{name}={_yaml(resolved[name])}" for name in names if name in resolved)


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
