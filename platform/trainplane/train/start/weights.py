"""Weights that a run begins with, and their report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from trainplane.errors import UserError


@dataclass(frozen=True)
class StartSource:
    """Permanent address of a start, and its digest."""

    address: str
    digest: str


@dataclass(frozen=True)
class StartWeights:
    """Networks of another run or model."""

    tensors: dict[str, Tensor]  # named `module/NAME/KEY`, as in a checkpoint
    digest: str
    about: dict[str, Any] = field(default_factory=dict)  # JSON of the task's own, such as an architecture
    meta: dict[str, Any] = field(default_factory=dict)  # of the checkpoint they come from, if any

    def of_module(self, name: str) -> dict[str, Tensor]:
        """Tensors of one module by key, if any."""
        prefix = f"module/{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class StartReport:
    """Parts that were loaded, fresh, or did not fit."""

    address: str
    digest: str
    loaded: dict[str, str] = field(default_factory=dict)  # part -> how much of it
    fresh: dict[str, str] = field(default_factory=dict)  # part -> reason
    unfit: tuple[str, ...] = ()  # sentences
    step: int | None = None  # steps that the start had done, where the whole state was taken

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "unfit": list(self.unfit)}

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> StartReport:
        """Reads what `to_json` returned."""
        return StartReport(**{**values, "unfit": tuple(values["unfit"])})

    def checked(self, *, strict: bool) -> StartReport:
        """Returns the report; raises `UserError` where too little fits."""
        if not self.loaded:
            raise UserError(
                f"train.start_from={self.address}: nothing of it fits this run ({self._unfit(3)}); give weights of the "
                "same networks"
            )
        if strict and self.unfit:
            raise UserError(
                f"train.start_from={self.address} does not fit this run: {self._unfit(3)}; give weights of the same "
                "networks, or take what fits with train.start_from_strict=false"
            )
        return self

    def _unfit(self, most: int) -> str:
        more = [f"and {len(self.unfit) - most} more"] if len(self.unfit) > most else []
        return "; ".join([*self.unfit[:most], *more]) or "it has none of the networks"

    def __str__(self) -> str:
        parts = [f"{name} loaded ({how})" for name, how in self.loaded.items()]
        parts += [f"{name} fresh ({why})" for name, why in self.fresh.items()]
        parts += [f"did not fit: {self._unfit(5)}"] if self.unfit else []
        return f"begins at {self.address} (digest {self.digest[:12]}): {'; '.join(parts)}"


def report_of(address: str, weights: StartWeights, modules: Mapping[str, nn.Module]) -> StartReport:
    """Matches weights with a task's modules by name and shape.

    The modules may be on the device `meta`.
    """
    loaded, fresh, unfit = {}, {"moments of the optimisers": "always"}, list[str]()
    for name, module in modules.items():
        offered, needed = weights.of_module(name), module.state_dict()
        if not offered:
            fresh[name] = "the start has none"
            continue
        unfit += differences(name, needed, offered)
        if fitting := _fitting(needed, offered):
            loaded[name] = f"{len(fitting)} of {len(needed)} tensors"
    return StartReport(address, weights.digest, loaded, fresh, tuple(unfit))


@torch.no_grad()
def load_weights(weights: StartWeights, modules: Mapping[str, nn.Module]) -> None:
    """Copies what fits into the modules."""
    for name, module in modules.items():
        offered, needed = weights.of_module(name), module.state_dict()
        for key in _fitting(needed, offered):
            needed[key].copy_(offered[key])


def _fitting(needed: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> list[str]:
    return [key for key in needed if key in offered and offered[key].shape == needed[key].shape]


def differences(name: str, needed: Mapping[str, Tensor], offered: Mapping[str, Tensor]) -> list[str]:
    """Describes the tensors of a module that do not fit."""
    lines = [f"{name}.{key} is missing" for key in needed if key not in offered]
    lines += [f"{name}.{key} is surplus" for key in offered if key not in needed]
    return lines + [
        f"{name}.{key} has shape {tuple(offered[key].shape)}, need {tuple(needed[key].shape)}"
        for key in needed
        if key in offered and offered[key].shape != needed[key].shape
    ]
