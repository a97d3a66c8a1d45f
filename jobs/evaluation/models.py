"""MODEL, as people type it: a registered version, a run, a checkpoint, the author's file, or a method without weights.

    models:/NAME@ALIAS · models:/NAME/VERSION · runs:/ID · …/step-NNNNNNNN · author:PATH · untrained:PRESET ·
    classical:mean|telea|ns|biharmonic

Whatever it is, it comes back as something that fills holes, with what is known of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from isnet.formats.author import load_author_checkpoint
from isnet.generator import Architecture, Generator
from isnet.inference.classical import classical
from isnet.inference.filler import Filler
from isnet.inference.predictor import Predictor
from isnet.weights import load_model
from jobs.config import load_run_config
from jobs.isnet_task import TRAINED, ISNetTask
from trainplane.cluster.context import Context
from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.registry.package import data_of, download
from trainplane.registry.versions import find_version
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.state import restore


@dataclass(frozen=True)
class Model:
    """A model that was found.

    address -- as it was typed; pinned -- the same with an alias replaced by the version it pointed at
    size    -- side of the square it is evaluated on; None where it has none of its own
    architecture, parameters, steps -- None where there is no network, or nobody knows; package_bytes -- as registered
    """

    address: str
    filler: Filler
    size: int | None = None
    pinned: str = ""
    architecture: Architecture | None = None
    parameters: int | None = None
    steps: int | None = None
    package_bytes: int | None = None

    def __post_init__(self) -> None:
        if not self.pinned:
            object.__setattr__(self, "pinned", self.address)


def of_network(address: str, network: Generator, **facts: Any) -> Model:
    """A network as a model, on a GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Model(
        address,
        Predictor(network, device=device),
        architecture=network.architecture,
        parameters=network.num_parameters(),
        **facts,
    )


def open_model(address: str, context: Context) -> Model:
    """The model behind an address; a `UserError` says what an address may be."""
    if address.startswith("classical:"):
        return Model(address, classical(address.removeprefix("classical:")))
    if address.startswith("author:"):
        network = load_author_checkpoint(Path(address.removeprefix("author:")).expanduser())
        return of_network(address, cast("Generator", network), size=256)
    if address.startswith("untrained:"):
        return untrained(load_run_config(address.removeprefix("untrained:"), []), address)
    if address.startswith("models:/"):
        return _registered(address, context)
    if address.startswith("runs:/"):
        return _checkpoint(address, checkpoint_of_run(address.removeprefix("runs:/"), context))
    if "step-" in address or address.startswith(("s3://", "/", ".")):
        return _checkpoint(address, address)
    raise UserError(
        f"{address!r} is no model; need models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, a checkpoint's address, "
        "author:PATH, untrained:PRESET or classical:mean|telea|ns|biharmonic"
    )


def _registered(address: str, context: Context) -> Model:
    version = find_version(context.tracking, address)
    # From here on the version, not the alias: it may move while we work.
    pinned = f"models:/{version.name}/{version.version}"
    folder = download(context.tracking, pinned, context.home / "cache" / "models")
    exported = data_of(folder)
    trained = json.loads((exported / TRAINED).read_text(encoding="utf-8"))
    return of_network(
        address,
        load_model(exported),
        size=trained["evaluation_size"],
        steps=trained.get("steps"),
        pinned=pinned,
        package_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def checkpoint_of_run(run_id: str, context: Context) -> str:
    """Where the checkpoints of an MLflow run lie."""
    record = RunRecord(context.tracking_server, run_id)
    if (folder := record.tags.get("trainplane.checkpoints")) is None:
        raise UserError(f"run {run_id!r} has no checkpoints of ours; give one that `isnet train` made")
    return str(folder)


def _checkpoint(address: str, place: str) -> Model:
    store, checkpoint = checkpoints.open_address(place)
    # From here on this checkpoint: a run that is still training stores others.
    pinned = f"{store.address}/{checkpoint.key}"
    task, loaded = task_of_checkpoint(pinned)
    return of_network(
        address, generator_of(task), size=task.config.data.evaluation_size, pinned=pinned, steps=loaded.state.step
    )


def generator_of(task: ISNetTask) -> Generator:
    """The network of a task that is evaluated and registered."""
    return cast("Generator", task.gan.eval_generator())


def task_of_checkpoint(place: str) -> tuple[ISNetTask, checkpoints.LoadedCheckpoint]:
    """The task as a checkpoint left it, on the CPU; `place` is a run's folder or one step of it."""
    store, checkpoint = checkpoints.open_address(place)
    loaded = checkpoints.read(store, checkpoint)
    task = ISNetTask(_only_used(build(ISNetTask.Config, loaded.meta["config"])), torch.device("cpu"))
    restore(task, loaded.state, source=f"{store.address}/{checkpoint.key}")
    return task, loaded


def _only_used(config: Any) -> Any:
    """The configuration without the losses that need VGG, whose weights are no part of a checkpoint: whoever fills
    holes with a network need not have them."""
    return config.model_copy(update={"loss": config.loss.model_copy(update={"perceptual": 0.0, "style": 0.0})})


def untrained(config: Any, address: str = "untrained") -> Model:
    """The network of a configuration as it was before its first step."""
    torch.manual_seed(config.train.seed)
    task = ISNetTask(_only_used(config), torch.device("cpu"))
    return of_network(address, generator_of(task), size=config.data.evaluation_size, steps=0)


_OPENED: dict[str, Model] = {}


@contextmanager
def worker_model(address: str, place: tuple[Context, dict[str, str]]) -> Iterator[Model]:
    """The model in a worker process: opened at the first share, one at a time."""
    context, environment = place
    os.environ.update(environment)
    if address not in _OPENED:
        _OPENED.clear()
        # A task has one processor.
        torch.set_num_threads(1)
        _OPENED[address] = open_model(address, context)
    yield _OPENED[address]
