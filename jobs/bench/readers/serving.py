"""Common part of all reader programs.

The parent writes one JSON object a line: {"workers", "start" (first sample), "warmup", "batches"}; the answer is one
JSON object a line. `first_batch_s` is from asking for the stream to its first batch; the rates leave the first
`warmup` batches out, so that they are those of a running stream.
"""

from __future__ import annotations

import io
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
import psutil
import torch
from PIL import Image

# address, size, resize, batch, seed, samples, and the settings of one reader.
Spec = dict[str, Any]
# (workers=, start=) to a stream that gives the number of pictures of each batch.
Open = Callable[..., AbstractContextManager[Iterator[int]]]


def main(
    opened: Callable[[Spec], Open], *, version: str | None = None, pack: Callable[[Spec], None] | None = None
) -> None:
    """Answers requests on standard input, or packs (`pack SPEC`)."""
    torch.set_num_threads(1)
    if pack and sys.argv[1] == "pack":
        pack(json.loads(sys.argv[2]))
        return
    answers = _standard_output_alone()
    opener = opened(json.loads(sys.argv[1]))
    # The first line names the version; each further one answers a request.
    _answer(answers, {"version": version} if version else {})
    for line in sys.stdin:
        _answer(answers, _measure(opener, **json.loads(line)))


def _measure(opener: Open, *, workers: int, start: int, warmup: int, batches: int) -> dict[str, float]:
    begin = time.perf_counter()
    with opener(workers=workers, start=start) as stream:
        # The first batch is timed alone, the rest of the warm-up is not.
        next(stream)
        first_batch_s = time.perf_counter() - begin
        for _ in range(warmup - 1):
            next(stream)
        wall, cpu = time.perf_counter(), cpu_s()
        pictures = sum(next(stream) for _ in range(batches))
        wall, cpu = time.perf_counter() - wall, cpu_s() - cpu
    return {"first_batch_s": first_batch_s, "pictures": pictures, "wall_s": wall, "cpu_s": cpu}


def cpu_s() -> float:
    """Processor time of this process and its living descendants, seconds."""
    total = 0.0
    for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
        try:
            times = process.cpu_times()
        # A worker may end while it is asked.
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def _standard_output_alone() -> TextIO:
    # Libraries print, too: their lines go to standard error.
    answers = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(answers, "w", encoding="utf-8")


def _answer(answers: TextIO, payload: dict[str, Any]) -> None:
    print(json.dumps(payload), file=answers, flush=True)


@dataclass(frozen=True)
class PillowCrop:
    """Random crop, as peers' users write it.

    It returns uint8 (size, size, 3). The shorter side is brought to `resize` before, where that is set.
    """

    size: int
    resize: int | None

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Crop of a decoded picture."""
        if image.mode != "RGB":
            image = image.convert("RGB")
        if self.resize is not None:
            scale = self.resize / min(image.size)
            shrunk = (max(self.size, round(image.width * scale)), max(self.size, round(image.height * scale)))
            image = image.resize(shrunk, Image.Resampling.BILINEAR)
        # A random square.
        left = random.randint(0, image.width - self.size)
        top = random.randint(0, image.height - self.size)
        return torch.from_numpy(np.array(image.crop((left, top, left + self.size, top + self.size))))

    def of_bytes(self, data: bytes | memoryview) -> torch.Tensor:
        """Crop of an encoded picture."""
        return self(Image.open(io.BytesIO(data)))


def crop_of_bytes(spec: Spec) -> Callable[[bytes | memoryview], torch.Tensor]:
    """Crop of encoded pictures, Pillow's or ours (`decoder`)."""
    if spec.get("decoder") != "ours":
        return PillowCrop(spec["size"], spec["resize"]).of_bytes
    # Imported here, because the environment of a peer need not have our decoder.
    from jobs.bench.readers.ours import OurCrop

    crop, rng = OurCrop(spec["size"], spec["resize"]), np.random.default_rng()
    # litdata gives a view of its chunk.
    return lambda data: crop({"jpg": bytes(data)}, rng)["image"]
