"""Sample photos with masks, to try the page."""

from __future__ import annotations

import importlib.util
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from isnet.masks import irregular

# Photographs of installed packages; the demo never trains on them.
_PHOTOS = (
    ("chelsea", "skimage", "data/chelsea.png"),
    ("coffee", "skimage", "data/coffee.png"),
    ("astronaut", "skimage", "data/astronaut.png"),
)
_RATIO = (0.04, 0.08)


@dataclass(frozen=True)
class SamplePhoto:
    """A photo to try, and a hole drawn for it."""

    name: str
    path: Path

    def photo(self) -> bytes:
        """Bytes of the photo, a PNG."""
        return self.path.read_bytes()

    def mask(self) -> bytes:
        """Bytes of the mask, a PNG; always the same one."""
        return _mask(self.name, self.path)


def sample_photos() -> list[SamplePhoto]:
    """Samples whose packages are installed."""
    samples = []
    for name, package, path in _PHOTOS:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None and (file := Path(spec.origin).parent / path).is_file():
            samples.append(SamplePhoto(name, file))
    return samples


@cache
def _mask(name: str, path: Path) -> bytes:
    with Image.open(path) as image:
        width, height = image.size
    hole = irregular(height, width, np.random.default_rng(len(name)), ratio=_RATIO)
    file = io.BytesIO()
    Image.fromarray(hole).save(file, "PNG")
    return file.getvalue()
