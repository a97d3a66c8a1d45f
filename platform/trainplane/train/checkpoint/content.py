"""Parses the files of a checkpoint.

Their digests say that they are whole, not that they are sound: a user who can write to the store can store any bytes
with right digests, and `inpaint` opens checkpoints of others. All functions raise `ValueError` for content that no
checkpoint has. Nothing is unpickled.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class StateFile:
    """Content of `state.json`."""

    step: int
    scalars: dict[str, Any]
    meta: dict[str, Any]


def parse_state(data: bytes) -> StateFile:
    """Parses `state.json`."""
    content = parse_object(data)
    step, scalars, meta = content.get("step"), content.get("scalars"), content.get("meta")
    if type(step) is not int or not isinstance(scalars, dict) or not isinstance(meta, dict):
        raise ValueError("need a step, scalars and meta")
    return StateFile(step, scalars, meta)


def parse_object(data: bytes) -> dict[str, Any]:
    """Parses a JSON object."""
    try:
        content = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("need an object")
    return content


def parse_tensors(data: bytes) -> dict[str, Tensor]:
    """Parses `tensors.safetensors`, which takes no more memory than its bytes."""
    # Imported here, so that lists of checkpoints do without torch.
    import safetensors.torch

    try:
        return safetensors.torch.load(data)
    # Types that this version of the format or of torch does not have raise KeyError.
    except (safetensors.SafetensorError, LookupError, TypeError, RuntimeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
