"""MODEL, as people type it: a registered version, a run, a checkpoint, the author's file, or a method without weights.

    models:/NAME@ALIAS · models:/NAME/VERSION · runs:/ID · …/step-NNNNNNNN · author:PATH · classical:mean|telea|ns|…

Whatever it is, it comes back as something that fills holes, with what is known of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from isnet.architecture import Generator
from isnet.author import load_author_checkpoint
from isnet.classical import classical
from isnet.filling import Filler
from isnet.predictor import Predictor
from isnet.weights import load_model
from jobs.isnet_task import TRAINED, ISNetTask
from trainplane.cluster.context import Context
from trainplane.config import build
from trainplane.errors import UserError
from trainplane.registry.package import data_of, download
from trainplane.tracking.client import client_for
from trainplane.train import checkpoint as checkpoints
from trainplane.train.state import restore


@dataclass(frozen=True)
class Model:
    """A model that was found. `size`: side of the square it is evaluated on; None where it has none of its own."""

    address: str
    filler: Filler
    size: int | None = None
    facts: dict[str, Any] | None = None


def open_model(address: str, context: Context) -> Model:
    """The model behind an address; a `UserError` says what an address may be."""
    if address.startswith("classical:"):
        return Model(address, classical(address.removeprefix("classical:")))
    if address.startswith("author:"):
        network = load_author_checkpoint(Path(address.removeprefix("author:")).expanduser())
        return Model(address, Predictor(cast("Generator", network)), size=256)
    if address.startswith("models:/"):
        return _registered(address, context)
    if address.startswith("runs:/"):
        return _checkpoint(address, checkpoint_of_run(address.removeprefix("runs:/"), context))
    if "step-" in address or address.startswith(("s3://", "/", ".")):
        return _checkpoint(address, address)
    raise UserError(
        f"{address!r} is no model; need models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, a checkpoint's address, "
        "author:PATH or classical:mean|telea|ns|biharmonic"
    )


def _registered(address: str, context: Context) -> Model:
    folder = download(context.tracking, address, context.home / "cache" / "models")
    exported = data_of(folder)
    trained = json.loads((exported / TRAINED).read_text(encoding="utf-8"))
    return Model(address, Predictor(load_model(exported)), size=trained["evaluation_size"])


def checkpoint_of_run(run_id: str, context: Context) -> str:
    """Where the checkpoints of an MLflow run lie."""
    from mlflow.exceptions import MlflowException

    try:
        run = client_for(context.tracking).get_run(run_id)
    except MlflowException as error:
        raise UserError(f"no run {run_id!r} here ({error}); `isnet runs list` shows those there are") from error
    if (folder := run.data.tags.get("trainplane.checkpoints")) is None:
        raise UserError(f"run {run_id!r} has no checkpoints of ours; give one that `isnet train` made")
    return str(folder)


def _checkpoint(address: str, place: str) -> Model:
    task, _ = task_of_checkpoint(place)
    return Model(address, Predictor(generator_of(task)), size=task.config.data.evaluation_size)


def generator_of(task: ISNetTask) -> Generator:
    """The network of a task that is evaluated and registered."""
    return cast("Generator", task.gan.eval_generator())


def task_of_checkpoint(place: str) -> tuple[ISNetTask, checkpoints.Loaded]:
    """The task as a checkpoint left it, on the CPU; `place` is a run's folder or one step of it."""
    store, checkpoint = checkpoints.open_address(place)
    loaded = checkpoints.read(store, checkpoint)
    task = ISNetTask(build(ISNetTask.Config, loaded.meta["config"]), torch.device("cpu"))
    restore(task, loaded.state, source=f"{store.address}/{checkpoint.key}")
    return task, loaded


def untrained(config: Any) -> Model:
    """The network of a configuration as it was before its first step."""
    torch.manual_seed(config.train.seed)
    task = ISNetTask(config, torch.device("cpu"))
    return Model("untrained", Predictor(generator_of(task)), size=config.data.evaluation_size)
