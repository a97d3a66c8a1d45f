"""Golden pictures: small inputs with the trained network's answers.

They are packaged with a model version. The answers are computed before the export, by the network as training left it.
A packaged model with other answers was damaged by the export, or runs on hardware with other arithmetic.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isnet.errors import InputError
from isnet.images.decode import decode_rgb
from isnet.served import ServedModel

FILE = "golden.json"


def requests() -> list[dict[str, str]]:
    """Makes three small pictures with holes."""
    # Odd sizes and a hole at the edge need padding; gray stripes show changes of colour.
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
    y, x = np.mgrid[0:61, 0:93]
    waves = np.stack(
        [127 + 120 * np.sin(x * a + y * b) for a, b in ((0.11, 0.02), (0.05, 0.13), (0.07, 0.07))], axis=-1
    )
    # Gray, 48 by 64.
    stripes = np.where(np.arange(64)[None, :] // 8 % 2, 200, 40) * np.ones((48, 1))
    pictures = [gradient, waves.astype(np.uint8), stripes.astype(np.uint8)]
    areas = [(slice(12, 20), slice(12, 20)), (slice(30, 61), slice(40, 60)), (slice(16, 32), slice(20, 44))]
    return [_request(picture, area) for picture, area in zip(pictures, areas, strict=True)]


def _request(picture: NDArray[np.uint8], area: tuple[slice, slice]) -> dict[str, str]:
    mask = np.zeros(picture.shape[:2], np.uint8)
    mask[area] = 255
    return {"image": _png(picture), "mask": _png(mask)}


def _png(pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(network: Any, folder: Path, *, trained_size: int | None = None) -> None:
    """Writes requests and answers into an exported model's folder."""
    rows = requests()
    answers: Sequence[Mapping[str, str]] = ServedModel(network, trained_size=trained_size).predict(rows)
    pictures = [{**row, "answer": answer["image"]} for row, answer in zip(rows, answers, strict=True)]
    (folder / FILE).write_text(json.dumps(pictures, indent=1) + "\n", encoding="utf-8")


def read(folder: Path) -> list[dict[str, str]]:
    """Reads {image, mask, answer} rows; none of a damaged file."""
    try:
        pictures = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return [{name: str(row[name]) for name in ("image", "mask", "answer")} for row in pictures]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def largest_difference(pictures: Sequence[Mapping[str, str]], answers: Sequence[Mapping[str, str]]) -> float | None:
    """Largest difference between golden and new answers, 0 to 255.

    None if an answer is missing, cannot be decoded, or has another size.
    """
    if len(pictures) != len(answers) or not pictures:
        return None
    worst = 0
    for row, answer in zip(pictures, answers, strict=True):
        # Rounding may differ by hardware, so pixels are compared, not bytes of PNG.
        try:
            golden, new = (decode_rgb(base64.b64decode(text)) for text in (row["answer"], answer["image"]))
        except (InputError, ValueError, KeyError):
            return None
        if golden.shape != new.shape:
            return None
        worst = max(worst, int(np.abs(golden.astype(int) - new).max()))
    return float(worst)
