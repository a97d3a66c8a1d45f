"""Training state as plain tensors and JSON, and its digest.

It has all that a run needs to resume: modules with their buffers, optimisers, counters and the step. The data's order
is a pure function of the step, and each step seeds its generators from (seed, step, rank).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.task import Task


@dataclass(frozen=True)
class TrainingState:
    """Training state after `step` global steps."""

    step: int  # Global steps done
    tensors: dict[str, Tensor]  # CPU tensors, contiguous, named `module/NAME/KEY` and `optimizer/NAME/INDEX/KEY`
    scalars: dict[str, Any]  # JSON: `counters` of the task and `param_groups` of each optimiser

    def digest(self) -> str:
        """Returns the sha256 over all tensors, then the scalars."""
        # Each tensor counts with name, dtype, shape and bytes, in the order of the names.
        sha = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name]
            sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            sha.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        sha.update(canonical_json({"step": self.step, **self.scalars}))
        return sha.hexdigest()


def capture(task: Task, *, step: int) -> TrainingState:
    """Copies the task's state to the CPU; training may continue."""
    # Modules: parameters and buffers.
    tensors: dict[str, Tensor] = {}
    param_groups: dict[str, Any] = {}
    for name, module in task.modules().items():
        for key, value in module.state_dict().items():
            tensors[f"module/{name}/{key}"] = _staged(value)
    # Optimisers: settings as JSON, moments as tensors.
    for name, optimizer in task.optimizers().items():
        packed = optimizer.state_dict()
        param_groups[name] = [{k: v for k, v in group.items() if k != "params"} for group in packed["param_groups"]]
        for index, slots in packed["state"].items():
            for key, value in slots.items():
                tensors[f"optimizer/{name}/{index:05d}/{key}"] = _staged(torch.as_tensor(value))
    return TrainingState(step, tensors, {"counters": task.counters(), "param_groups": param_groups})


def is_finite(task: Task) -> Tensor:
    """Checks all numbers; a 0-dim bool tensor, without waiting."""
    values = [value for module in task.modules().values() for value in module.state_dict().values()]
    for optimizer in task.optimizers().values():
        slots = optimizer.state.values()
        values += [value for slot in slots for value in slot.values() if isinstance(value, Tensor)]
    checks = [value.isfinite().all().to(task.device) for value in values if value.is_floating_point()]
    return torch.stack(checks).all() if checks else torch.ones((), dtype=torch.bool, device=task.device)


def _staged(tensor: Tensor) -> Tensor:
    """Contiguous CPU copy that shares no memory with training."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def check_architecture(task: Task, state: TrainingState, *, source: str) -> None:
    """Raises `UserError` where a state is of another architecture.

    Only shapes and types count, so the task may be on the device `meta`, where it takes no memory.
    """
    for name, module in task.modules().items():
        _check_same(module.state_dict(), _under(state.tensors, f"module/{name}/"), name, source)


def restore(task: Task, state: TrainingState, *, source: str) -> None:
    """Loads a state; `UserError` where it is another task's."""
    check_architecture(task, state, source=source)
    try:
        _load(task, state)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
        raise UserError(
            f"checkpoint {source} holds no state of this kind of training ({type(error).__name__}); "
            "give another checkpoint, or start a new run with --fresh"
        ) from error


def _load(task: Task, state: TrainingState) -> None:
    for name, module in task.modules().items():
        module.load_state_dict(_under(state.tensors, f"module/{name}/"), strict=True)
    for name, optimizer in task.optimizers().items():
        # Optimisers: stored moments by parameter index, stored settings with this optimiser's own parameters.
        packed = optimizer.state_dict()
        slots: dict[int, dict[str, Tensor]] = {}
        for path, value in _under(state.tensors, f"optimizer/{name}/").items():
            index, _, key = path.partition("/")
            slots.setdefault(int(index), {})[key] = value.clone()
        groups = [
            {**stored_group, "params": group["params"]}
            for stored_group, group in zip(state.scalars["param_groups"][name], packed["param_groups"], strict=True)
        ]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    task.load_counters(state.scalars["counters"])


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _check_same(expected: Mapping[str, Tensor], stored: Mapping[str, Tensor], name: str, source: str) -> None:
    missing, surplus = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    differing = [key for key in expected.keys() & stored.keys() if _form(expected[key]) != _form(stored[key])]
    if not (missing or surplus or differing):
        return
    # One example in the message is enough to see the difference.
    if differing:
        key = sorted(differing)[0]
        example = f"{key} is {_form(stored[key])} there and {_form(expected[key])} here"
    else:
        example = f"{(missing or surplus)[0]} is only {'here' if missing else 'there'}"
    raise UserError(
        f"checkpoint {source} holds another architecture of {name!r}: {len(missing)} tensors missing, "
        f"{len(surplus)} surplus, {len(differing)} of another shape or type ({example}); "
        "give the configuration it was made with, or start a new run with --fresh"
    )


def _form(tensor: Tensor) -> str:
    """Type and shape, such as `float32 (3, 4)`."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
