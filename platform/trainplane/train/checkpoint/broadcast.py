"""Sends rank 0's checkpoint to all ranks.

The store serves one reader, however many ranks a run has. The bytes of the tensors travel in pieces of bounded size,
and each rank receives them into the tensors that it restores from.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from trainplane.config.canonical import canonical_json
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.checkpoint.store import Checkpoint, LoadedCheckpoint
from trainplane.train.world import World


def shared(loaded: LoadedCheckpoint | None, *, world: World, device: torch.device) -> LoadedCheckpoint | None:
    """Returns rank 0's checkpoint, or its None, on every rank.

    Records that the tracking server lacks stay with rank 0, which tracks.

    Args:
        loaded: Rank 0's checkpoint; the others' is not looked at.
        world: The ranks.
        device: Device of the collective operations.
    """
    if world.size == 1:
        return loaded
    text = world.share(_description(loaded) if world.is_first else b"", device)
    if not world.is_first:
        loaded = _empty(json.loads(text))
    if loaded is not None:
        names = sorted(loaded.state.tensors)
        world.share_tensors([loaded.state.tensors[name] for name in names], device)
    return loaded


def _description(loaded: LoadedCheckpoint | None) -> bytes:
    """Everything but the tensors' values, as JSON."""
    if loaded is None:
        return b"null"
    checkpoint, state = loaded.checkpoint, loaded.state
    about = {
        "key": checkpoint.key,
        "manifest": checkpoint.manifest,
        "meta": loaded.meta,
        "scalars": state.scalars,
        "damaged": loaded.damaged,
        "tensors": {name: _form(tensor) for name, tensor in state.tensors.items()},
    }
    return canonical_json(about)


def _empty(about: dict[str, Any] | None) -> LoadedCheckpoint | None:
    """The described checkpoint; its tensors have no values yet."""
    if about is None:
        return None
    step = about["manifest"]["step"]
    tensors = {
        name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (dtype, shape) in about["tensors"].items()
    }
    state = TrainingState(step, tensors, about["scalars"])
    checkpoint = Checkpoint(step, about["key"], about["manifest"])
    return LoadedCheckpoint(checkpoint, state, about["meta"], b"", tuple(about["damaged"]))


def _form(tensor: Tensor) -> tuple[str, list[int]]:
    return str(tensor.dtype).removeprefix("torch."), list(tensor.shape)
