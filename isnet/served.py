"""Serves a model over HTTP, by MLflow's pyfunc convention.

MLflow calls `_load_pyfunc(folder)`, and `predict` on the result; nothing here imports MLflow. A request is a table with
the columns `image` and `mask`, each cell an encoded picture in base64 (a `data:` address is fine); the answer is a
table with `image`, a PNG in base64, and `notes`. White is hole unless the parameter `hole` says "black".

Not here: registering a model, any other kind of input (`isnet.inpaint`).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from isnet.errors import InputError
from isnet.images.files import MAX_FILE_BYTES, PictureError
from isnet.images.open_image import MAX_PIXELS
from isnet.images.save import encode_photo
from isnet.inference.predictor import Predictor, checked_refine
from isnet.inpaint import inpaint
from isnet.mask_files import MaskRules, Polarity

COLUMNS = ("image", "mask")
# MLflow's error code for an invalid request: HTTP status 400.
_INVALID = 1000
# With their defaults, which a version's signature in MLflow repeats.
PARAMETERS: dict[str, str | bool | int] = {
    "hole": "white",
    "threshold": 128,
    "composite": True,
    "resize_mask": False,
    "refine": "auto",
    "grow": 0,
    "feather": 0,
}
# File beside the weights: size and masks of the training, the defaults of evaluation and prediction.
TRAINED = "trained.json"


class ServedModel:
    """Model for a scoring server.

    Pictures beyond `max_pixels` are refused from their header. Without `trained_size` no picture is refined.
    """

    def __init__(
        self,
        net: nn.Module | Predictor,
        *,
        device: str | torch.device = "cpu",
        max_pixels: int = MAX_PIXELS,
        trained_size: int | None = None,
    ) -> None:
        # A predictor is used as it is, with its own device and size.
        self._predictor = (
            net if isinstance(net, Predictor) else Predictor(net, device=device, trained_size=trained_size)
        )
        self._max_pixels = max_pixels

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Fills the hole of each row.

        Args:
            model_input: A pandas DataFrame, a list of dicts, or a dict of columns, with `image` and `mask`.
            params: Some of `PARAMETERS`; `isnet.inpaint.inpaint` explains them.

        Returns:
            A DataFrame for a DataFrame, else a list of dicts, row by row: `image` and `notes`, both strings.

        Raises:
            InputError: A row cannot be used; the message names it, and no row is returned.
        """
        try:
            options = _options(params or {})
            rows = _rows(model_input)
            answers = [self._fill_row(number, row, options) for number, row in enumerate(rows)]
        except InputError as error:
            raise _as_mlflow_error(error) from error
        return type(model_input)(answers) if hasattr(model_input, "to_dict") else answers

    def _fill_row(self, number: int, row: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
        image, mask = (_bytes_of(row, column, number) for column in COLUMNS)
        # Every refusal names its row.
        try:
            result = inpaint(image, mask, model=self._predictor, max_pixels=self._max_pixels, **options)
            data, notes = encode_photo(result.photo, ".png")
        except PictureError as error:
            raise PictureError(error.kind, f"row {number}: {error.message}") from error
        except InputError as error:
            raise InputError(f"row {number}: {error}") from error
        return {"image": base64.b64encode(data).decode(), "notes": "; ".join((*result.notes, *notes))}


def _load_pyfunc(path: str | os.PathLike[str]) -> ServedModel:
    """Loads a folder of `save_model`, onto a GPU if possible."""
    from isnet.weights import load_model

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return ServedModel(load_model(os.fspath(path)), device=device, trained_size=trained_size(Path(path)))


def trained_size(folder: Path) -> int | None:
    """Side of the training pictures; None if not recorded."""
    try:
        size = json.loads((folder / TRAINED).read_text(encoding="utf-8"))["evaluation_size"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"{folder / TRAINED} cannot be read ({type(error).__name__}); register the model again"
        ) from error
    if type(size) is not int or size < 1:
        raise InputError(f"{folder / TRAINED} says evaluation_size {str(size)[:40]}; register the model again")
    return size


class _StopInit(Exception):
    """Ends the chain of `__init__` between MLflow's exception and ours.

    MLflow's exception passes its message to the next class; ours is initialised already.
    """

    def __init__(self, *arguments: object) -> None: ...


def _as_mlflow_error(error: InputError) -> InputError:
    """Makes a refusal an MLflow exception too, where MLflow serves.

    MLflow's server answers its own exceptions with status and message, others with a stack trace.
    """
    mlflow = sys.modules.get("mlflow.exceptions")
    if mlflow is None:
        return error
    base: Any = mlflow.MlflowException
    message = str(error)
    # `message` ignores assignment: the server would put the whole request before it.
    members = {"message": property(lambda _: message, lambda _, value: None), "__str__": lambda _: message}
    # A class of both kinds, made without a second call of our own `__init__`.
    kind = type("Refused", (base, _StopInit, type(error)), members)
    refused: Any = kind.__new__(kind, str(error))
    refused.__dict__.update(error.__dict__)
    base.__init__(refused, message, error_code=_INVALID)
    return cast(InputError, refused)


def _options(params: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(params.keys() - PARAMETERS.keys())
    if unknown:
        raise InputError(f"parameters {', '.join(unknown)} are unknown; need some of {', '.join(PARAMETERS)}")
    settings = {**PARAMETERS, **params}
    for name in ("composite", "resize_mask"):
        if not isinstance(settings[name], bool | np.bool_):
            raise InputError(f"parameter {name} is {settings[name]!r}; need true or false")
    threshold = settings["threshold"]
    if not isinstance(threshold, int | np.integer):
        raise InputError(f"parameter threshold is {threshold!r}; need a whole number from 1 to 255")
    return {
        "rules": MaskRules(hole=cast(Polarity, settings["hole"]), threshold=int(threshold)),
        "composite": bool(settings["composite"]),
        "resize_mask": bool(settings["resize_mask"]),
        "refine": checked_refine(settings["refine"]),
        "grow": settings["grow"],
        "feather": settings["feather"],
    }


def _rows(model_input: Any) -> Sequence[Mapping[str, Any]]:
    """Converts a request of any supported kind to rows."""
    if hasattr(model_input, "to_dict"):  # a DataFrame, without importing pandas
        model_input = model_input.to_dict("records")
    # A dict of columns; a bare cell is a column of one row.
    if isinstance(model_input, Mapping):
        columns = {name: [cell] if isinstance(cell, str | bytes) else list(cell) for name, cell in model_input.items()}
        lengths = {name: len(cells) for name, cells in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"columns have different lengths {lengths}; need one mask for each image")
        model_input = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if not isinstance(model_input, list) or not all(isinstance(row, Mapping) for row in model_input):
        raise InputError(
            f"got {type(model_input).__name__}; need a table with the columns {' and '.join(COLUMNS)}, "
            "as a DataFrame, a list of rows or a dict of columns"
        )
    return model_input


def _bytes_of(row: Mapping[str, Any], column: str, number: int) -> bytes:
    if column not in row:
        raise InputError(f"row {number} has the columns {sorted(map(str, row))}; need {' and '.join(COLUMNS)}")
    cell = row[column]
    if not isinstance(cell, str | bytes):
        raise InputError(f"row {number}: {column} is {type(cell).__name__}; need an encoded picture in base64")
    text = cell.encode("utf-8", "replace") if isinstance(cell, str) else cell
    # A data: address has its base64 behind a comma.
    if text.startswith(b"data:"):
        text = text.partition(b",")[2]
    if len(text) > MAX_FILE_BYTES:
        raise InputError(f"row {number}: {column} has {len(text)} characters; need at most {MAX_FILE_BYTES}")
    # Base64 may be wrapped; white space carries no data.
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise InputError(f"row {number}: {column} is no base64 ({error}); encode the file's bytes in base64") from error
