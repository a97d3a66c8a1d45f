"""Datasets of a few kilobytes for the tests of the data room, and transforms that loader workers can import."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem, pack
from trainplane.storage import Store, open_store
from trainplane.storage.folder import FolderStore


def items(count: int, *, seed: int = 0) -> list[PackItem]:
    chance = np.random.default_rng(seed)
    return [
        PackItem(f"{n:05d}.png", chance.bytes(int(chance.integers(600, 2000))), "png", {"n": n}) for n in range(count)
    ]


def make(dest: Path | str, count: int = 100, *, seed: int = 0, shard_bytes: int = 40_000) -> Dataset:
    return pack(items(count, seed=seed), str(dest), name="small", split="train", shard_bytes=shard_bytes, how={})


class CountingStore(FolderStore):
    """A folder that remembers what was read of its shards: (key, start, length) each time."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[tuple[str, int, int]] = []

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        if key.endswith(".tar"):
            assert length is not None
            self.reads.append((key, start, length))
        return super().read(key, start=start, length=length)

    @property
    def bytes_read(self) -> int:
        return sum(length for _, _, length in self.reads)


def counting(dataset: Dataset) -> tuple[Dataset, CountingStore]:
    store = CountingStore(Path(dataset.address))
    return Dataset.open(store), store


def overwrite(store: Store | str, key: str, at: int, data: bytes) -> None:
    """Change bytes of a stored object in place."""
    store = open_store(store) if isinstance(store, str) else store
    content = store.read(key)
    store.write(key, content[:at] + data + content[at + len(data) :])


def spoil_sample(dataset: Dataset, sample: int) -> tuple[str, str]:
    """Flip one payload byte of a sample; its shard and key."""
    index = dataset.index
    shard = dataset.shards[index.shard_of(sample)].name
    member = next(member for member in index.members_of(sample) if member.extension == "png")
    at = member.offset + member.size // 2
    old = dataset.store.read(shard, start=at, length=1)
    overwrite(dataset.store, shard, at, bytes([old[0] ^ 0x10]))
    return shard, index.key_of(sample)


def number_and_chance(sample: Mapping[str, bytes], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Which sample it is, what its bytes sum to, and four random numbers."""
    return {
        "n": torch.tensor(json.loads(sample["json"])["n"]),
        "sum": torch.tensor(sum(sample["png"])),
        "chance": torch.from_numpy(rng.random(4)),
    }


class Refusing:
    """Like `number_and_chance`, but some samples cannot be decoded."""

    def __init__(self, *numbers: int) -> None:
        self._numbers = numbers

    def __call__(self, sample: Mapping[str, bytes], rng: np.random.Generator) -> dict[str, Any]:
        if json.loads(sample["json"])["n"] in self._numbers:
            raise ValueError("this is no picture")
        return number_and_chance(sample, rng)


def faulty(sample: Mapping[str, bytes], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    raise KeyError("a fault of the transform's own")


def killed(sample: Mapping[str, bytes], rng: np.random.Generator) -> dict[str, torch.Tensor]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}
