"""Opens models by their address.

models:/NAME@ALIAS · models:/NAME/VERSION · runs:/ID · …/step-NNNNNNNN · author:PATH · starter ·
untrained:PRESET · classical:mean|telea|ns|biharmonic, and short for the first three NAME, NAME@ALIAS, NAME/VERSION, ID
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from isnet.formats.released import load_generator
from isnet.generator import Architecture, Generator
from isnet.inference.classical import classical
from isnet.inference.filler import Filler
from isnet.inference.predictor import Predictor, Refine
from isnet.served import TRAINED
from isnet.weights import load_model
from jobs import starter
from jobs.config import load_isnet_config
from jobs.evaluation.model_address import STARTER, complete_address
from jobs.evaluation.recorded_evaluation import MAX_SIZE
from jobs.isnet_task import ISNetTask
from jobs.registry.promoted_version import promoted_version
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.registry.package import data_of, download
from trainplane.registry.versions import ModelVersion
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.state import check_architecture, restore
from trainplane.train.start.checkpoint import checkpoints_of_run


@dataclass(frozen=True)
class Model:
    """A model that fills holes."""

    address: str  # as typed
    filler: Filler
    size: int | None = None  # side of the square to evaluate on, pixels; None if the model does not define it
    pinned: str = ""  # address of the same version or checkpoint for ever, without an alias
    architecture: Architecture | None = None  # None, like `parameters`, for a method without a network
    parameters: int | None = None
    steps: int | None = None  # trained steps; None if unknown
    package_bytes: int | None = None  # None if the model is not registered

    def __post_init__(self) -> None:
        if not self.pinned:
            object.__setattr__(self, "pinned", self.address)

    def with_refine(self, refine: Refine) -> Model:
        """The model filling coarse to fine, or at one scale.

        Methods without a network are as they were.
        """
        if not isinstance(self.filler, Predictor):
            return self
        return replace(self, filler=self.filler.with_refine(refine))


def network_model(address: str, network: Generator, *, size: int, **attributes: Any) -> Model:
    """Wraps a network as a model, preferably on a GPU.

    It fills at one scale, as it is evaluated; `isnet inpaint` asks for more.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Model(
        address,
        Predictor(network, device=device, trained_size=size),
        size=size,
        architecture=network.architecture,
        parameters=network.num_parameters(),
        **attributes,
    )


def open_model(address: str, context: Context) -> Model:
    """Opens the model of an address."""
    typed, address = address, complete_address(address, context)
    # Methods and networks that are not in MLflow.
    if address.startswith("classical:"):
        return Model(address, classical(address.removeprefix("classical:")))
    if address.startswith("author:"):
        # ISNet's author evaluates at 256 pixels.
        return network_model(address, load_generator(address.removeprefix("author:")), size=256)
    if address.startswith("untrained:"):
        return untrained_model(load_isnet_config(address.removeprefix("untrained:"), []), address)
    if address == STARTER:
        size, steps = _trained(starter.FOLDER / TRAINED, address)
        return network_model(address, load_model(starter.FOLDER), size=size, steps=steps)
    # Models of the registry and checkpoints of runs.
    if address.startswith("models:/"):
        version = promoted_version(context, address)
        return _registered(typed, version, context)
    if address.startswith("runs:/"):
        return _checkpoint(typed, checkpoints_of_run(address, context))
    return _checkpoint(typed, address)


def models_folder(context: Context) -> Path:
    """Cache of fetched versions, by digest."""
    return context.home / "cache" / "models"


def _registered(address: str, version: ModelVersion, context: Context) -> Model:
    # From here on the version: the alias may move meanwhile.
    folder = download(version, models_folder(context))
    exported = data_of(folder)
    size, steps = _trained(exported / TRAINED, version.address)
    return network_model(
        address,
        load_model(exported),
        size=size,
        steps=steps,
        pinned=version.address,
        # Of the whole package: weights, code and requirements.
        package_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


def _trained(file: Path, address: str) -> tuple[int, int | None]:
    """Evaluation size and trained steps of a registered model."""
    try:
        trained = json.loads(file.read_text(encoding="utf-8"))
        size, steps = trained["evaluation_size"], trained.get("steps")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{address}: its {file.name} cannot be read ({type(error).__name__}); register the checkpoint again"
        ) from error
    if type(size) is not int or not 16 <= size <= MAX_SIZE or type(steps) not in (int, type(None)):
        raise UserError(
            f"{address}: its {file.name} says evaluation_size {str(size)[:40]} and steps {str(steps)[:40]}; need 16 to "
            f"{MAX_SIZE} and a whole number; register the checkpoint again"
        )
    return size, steps


def _checkpoint(address: str, checkpoint_address: str) -> Model:
    store, checkpoint = checkpoints.open_address(checkpoint_address)
    # From here on this checkpoint: a run that is still training stores newer ones.
    pinned = f"{store.address}/{checkpoint.key}"
    task, loaded = load_task(pinned)
    return network_model(
        address, eval_generator(task), size=task.config.data.evaluation_size, pinned=pinned, steps=loaded.state.step
    )


def eval_generator(task: ISNetTask) -> Generator:
    """Returns the network that is evaluated and registered."""
    return cast("Generator", task.players.eval_generator())


def load_task(address: str) -> tuple[ISNetTask, checkpoints.LoadedCheckpoint]:
    """Restores a run's newest checkpoint, or one step, on CPU."""
    store, checkpoint = checkpoints.open_address(address)
    source = f"{store.address}/{checkpoint.key}"
    loaded = checkpoints.read(store, checkpoint)
    if not isinstance(settings := loaded.meta.get("config"), dict):
        trained = command_line("train", "PRESET")
        raise UserError(f"checkpoint {source} has no configuration of a network; give one of `{trained}`")
    config = _without_vgg(build(ISNetTask.Config, settings))
    # First on the device `meta`, which takes no memory: a few bytes can name a network of any size.
    with torch.device("meta"):
        check_architecture(ISNetTask(config, torch.device("meta")), loaded.state, source=source)
    task = ISNetTask(config, torch.device("cpu"))
    restore(task, loaded.state, source=source)
    return task, loaded


def _without_vgg(config: Any) -> Any:
    """Removes the losses that need VGG: checkpoints lack its weights."""
    return config.model_copy(update={"loss": config.loss.model_copy(update={"perceptual": 0.0, "style": 0.0})})


def untrained_model(config: Any, address: str = "untrained") -> Model:
    """Makes the network of a configuration before its first step."""
    # The seed of the run, so these are the weights it would start with.
    torch.manual_seed(config.train.seed)
    task = ISNetTask(_without_vgg(config), torch.device("cpu"))
    return network_model(address, eval_generator(task), size=config.data.evaluation_size, steps=0)


# Model of this worker process, by address.
_open_models: dict[str, Model] = {}


@contextmanager
def worker_model(address: str, portable_context: tuple[Context, dict[str, str]]) -> Iterator[Model]:
    """Opens a model by pinned address in a worker process."""
    context, environment = portable_context
    os.environ.update(environment)
    # The process keeps the model for its next shares; another model replaces it.
    if address not in _open_models:
        _open_models.clear()
        # A task has one processor.
        torch.set_num_threads(1)
        _open_models[address] = open_model(address, context)
    yield _open_models[address]
