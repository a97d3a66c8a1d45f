"""Opens a model that fills holes, by its name.

A package may ship a model: it offers the folder under a name in the entry point group `isnet.models`, as the platform
does with the starter. Not here: models of a registry, which have addresses there (`jobs.api`).
"""

from __future__ import annotations

import os
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from torch import nn

from isnet.errors import InputError
from isnet.inference.classical import classical
from isnet.inference.filler import Filler
from isnet.inference.predictor import Predictor

GROUP = "isnet.models"
_CLASSICAL, _RELEASED = "classical:", "author:"
# Side of the pictures that ISNet's author evaluates at.
_RELEASED_SIZE = 256

Named = str | os.PathLike[str]


def open_filler(model: Filler | nn.Module | Named, *, device: str | torch.device | None = None) -> Filler:
    """Opens a model that fills holes.

    Args:
        model: A filler or a generator; a folder of `isnet.weights.save_model`; a checkpoint that authors released; a
            model that a package ships, such as "starter"; or "classical:" and the name of a classical method.
        device: To compute on; None for the first GPU, else the processor. A generator stays where it is.

    Raises:
        InputError: There is no such model, or its files cannot be read.
    """
    if isinstance(model, Filler):
        return model
    if isinstance(model, nn.Module):
        parameter = next(model.parameters(), None)
        return Predictor(model, device=device or (parameter.device if parameter is not None else "cpu"))
    name = os.fspath(model)
    if name.startswith(_CLASSICAL):
        return classical(name.removeprefix(_CLASSICAL))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if (folder := _model_folder(name)) is not None:
        from isnet.served import trained_size
        from isnet.weights import load_model

        return Predictor(load_model(folder), device=where, trained_size=trained_size(folder), refine="auto")
    from isnet.formats.released import load_generator

    released = Path(name.removeprefix(_RELEASED)).expanduser()
    if not released.exists():
        raise InputError(
            f"{name!r} is no model; need a folder of a model, a released checkpoint, {', '.join(sorted(shipped()))} or "
            f"{_CLASSICAL}telea; registered models, such as NAME@production, are opened by jobs.api.fill"
        )
    return Predictor(load_generator(released), device=where, trained_size=_RELEASED_SIZE, refine="auto")


def shipped() -> dict[str, Any]:
    """Models that installed packages offer, by name."""
    # Of every distribution: `entry_points()` takes the first of a name, which in a checkout may be a stale egg-info.
    return {entry.name: entry for each in distributions() for entry in each.entry_points.select(group=GROUP)}


def _model_folder(name: str) -> Path | None:
    """Returns the folder of a saved model, if any."""
    from isnet.weights import TENSORS

    offered = shipped().get(name)
    folder = Path(name).expanduser()
    # A folder of the user's counts before a name.
    if offered is not None and not folder.exists():
        return Path(offered.load())
    is_saved = not name.startswith(_RELEASED) and (folder / TENSORS).exists()
    return folder if is_saved else None
