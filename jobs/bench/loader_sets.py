"""Pictures of `isnet bench loader`, packed for each reader.

A set is some hundred different pictures, repeated in a cycle until there are so many samples that no reader can keep
them all in memory and requests are as large as with a real dataset. Not covered: reading them (readers/).
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import jobs
from isnet.errors import InputError
from isnet.images.decode import decode_rgb
from trainplane.data.pack.pack import pack
from trainplane.data.pack.shard_builder import PackItem
from trainplane.errors import RunFailed, UserError, error_line
from trainplane.storage import open_store

SIZE = 256  # of the crop
LARGE = 1024  # longer side from which a picture counts as large
LARGE_RESIZE = 288  # shorter side that large pictures are brought to before the crop
SHARD_BYTES = 8 * 2**20
_SYNTHETIC = 64  # different pictures


@dataclass
class PictureSet:
    """Pictures of one kind; `places` are their addresses by reader.

    `resize` is the shorter side before the crop, None for a crop of the picture as it is.
    """

    name: str
    pictures: list[bytes]
    resize: int | None
    samples: int
    places: dict[str, Any] = field(default_factory=dict)

    @property
    def mean_bytes(self) -> int:
        """Mean size of an encoded picture."""
        return sum(map(len, self.pictures)) // len(self.pictures)


def synthetic_sets(*, samples: int) -> list[PictureSet]:
    """Synthetic sets: 320 to 480 px, and 1024 to 1600."""
    rng = np.random.default_rng(4)
    small = [_picture(rng, *rng.integers(320, 481, 2), quality=90) for _ in range(_SYNTHETIC)]
    large = [_picture(rng, *rng.integers(LARGE, 1601, 2), quality=75) for _ in range(_SYNTHETIC // 4)]
    return [
        PictureSet("synthetic", small, None, samples),
        PictureSet("synthetic-large", large, LARGE_RESIZE, max(1, samples // 4)),
    ]


def photo_sets(folder: Path, *, samples: int) -> list[PictureSet]:
    """Sets of JPEG photos that take the crop."""
    if not folder.is_dir():
        raise UserError(f"--photos {folder}: no such folder; name one with JPEG photos")
    small: list[bytes] = []
    large: list[bytes] = []
    for file in sorted(folder.rglob("*.jp*g")):
        data = file.read_bytes()
        try:
            height, width = decode_rgb(data).shape[:2]
        except InputError:
            continue
        if min(height, width) >= SIZE:
            (large if max(height, width) >= LARGE else small).append(data)
    sets = [
        PictureSet("photos", small, None, samples),
        PictureSet("photos-large", large, LARGE_RESIZE, max(1, samples // 4)),
    ]
    if not (sets := [pictures for pictures in sets if pictures.pictures]):
        raise UserError(f"--photos {folder}: no JPEG photo with sides of {SIZE} px or more; name another folder")
    return sets


def _picture(rng: np.random.Generator, height: int, width: int, *, quality: int) -> bytes:
    # JPEG with structure at every scale, of a photo's size.
    import cv2

    canvas = np.zeros((height, width, 3), np.float32)
    # Clouds, from coarse and strong to fine and weak.
    for cells, strength in ((4, 60), (16, 35), (64, 20), (160, 12)):
        coarse = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        canvas += cv2.resize(coarse, (int(width), int(height)), interpolation=cv2.INTER_CUBIC)
    # Edges of rectangles, then grain.
    for _ in range(12):
        top, left = rng.integers(0, height - 40), rng.integers(0, width - 40)
        rows, columns = rng.integers(20, height // 2), rng.integers(20, width // 2)
        canvas[top : top + rows, left : left + columns] += rng.normal(0, 40, 3).astype(np.float32)
    canvas += 4 * rng.standard_normal(canvas.shape, dtype=np.float32)
    file = io.BytesIO()
    Image.fromarray(np.clip(canvas + 128, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def pack_for_us(pictures: PictureSet, bucket: str) -> None:
    """Packs our shards, which webdataset reads too."""

    def items() -> Iterator[PackItem]:
        for number in range(pictures.samples):
            data = pictures.pictures[number % len(pictures.pictures)]
            yield PackItem(f"{number:07d}.jpg", data, "jpg", {"n": number})

    address = f"{bucket}/ours/{pictures.name}"
    # webdataset takes a list of shards, ours the address of the dataset.
    dataset = pack(items(), address, name="bench", split="train", shard_bytes=SHARD_BYTES, how={})
    pictures.places["address"] = address
    pictures.places["shards"] = [f"{dataset.address}/{shard.name}" for shard in dataset.shards]


def pack_for_peer(program: str, python: str, pictures: PictureSet, bucket: str, scratch: Path) -> None:
    """Packs with a peer's own writer and uploads its files."""
    source, local = scratch / "pictures" / pictures.name, scratch / program / pictures.name
    if not source.exists():
        source.mkdir(parents=True)
        for number, data in enumerate(pictures.pictures):
            (source / f"{number:05d}.jpg").write_bytes(data)
    # The peer's interpreter may be another one, with packages that cannot live beside ours.
    spec = {"pictures": str(source), "local": str(local), "samples": pictures.samples, "shard_bytes": SHARD_BYTES}
    command = [python, "-m", f"jobs.bench.readers.{program}", "pack", json.dumps(spec)]
    done = subprocess.run(command, env=environment(), stdout=sys.stderr, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise RunFailed(f"{program} cannot pack: {error_line(done.stderr, last=True)}")
    # The writer packs to the disk; the files go to the store under the same names.
    store = open_store(f"{bucket}/{program}/{pictures.name}")
    for file in sorted(local.rglob("*")):
        if file.is_file():
            store.write(file.relative_to(local).as_posix(), file)
    pictures.places[program] = store.address


def environment() -> dict[str, str]:
    """Environment of a reader: our packages, one thread."""
    root = Path(str(jobs.__file__)).parents[1]
    paths: Sequence[str] = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
