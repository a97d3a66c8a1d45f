"""Runs of a few bytes in any store, with what their checkpoints say of their data."""

from __future__ import annotations

import json

import torch

from trainplane.storage import Store, open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.fencing import FencingToken
from trainplane.train.checkpoint.state import TrainingState


def store_run(address: str, steps: tuple[int, ...], *, digest: str = "d", **train: object) -> Store:
    """A run with checkpoints, the best of them at step 4; `train` are its settings."""
    store = open_store(address)
    about = {"key": address.rpartition("/")[2], "config": {"train": train}}
    store.create("run.json", json.dumps(about).encode())
    FencingToken.acquire(store)
    for step in steps:
        state = TrainingState(step, {"module/g/w": torch.full((4,), float(step))}, {})
        checkpoints.write(
            store, state, meta={"dataset_digest": digest, "config": {}}, metrics={"val/psnr": -abs(step - 4)}
        )
    return store
