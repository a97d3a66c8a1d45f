"""Two small datasets of noise pictures, `train` with 21 samples and `val` with 5, for the tiny tasks."""

import io

import numpy as np
from PIL import Image

from trainplane.data.pack.pack import PackItem, pack


def make(folder):
    for name, count, seed in (("train", 21, 1), ("val", 5, 2)):
        rng = np.random.default_rng(seed)
        items = [PackItem(f"{name}-{i}.png", png(rng), "png", {}) for i in range(count)]
        pack(items, str(folder / name), name=name, split=name, how={}, shard_bytes=4096)
    return folder


def png(rng):
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
