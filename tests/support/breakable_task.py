"""The tiny task with a sample that does harm: what a batch with it does to training is what the guard is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tiny_task import TinyConfig, TinyTask, to_tensors

from trainplane.config.section import Section
from trainplane.train.guard.policy import Balance


class Harm(Section):
    """What is wrong. `factor`: the targets of samples whose key contains `key` are multiplied by it."""

    key: str | None = None
    factor: float = 1.0
    nan: bool = False
    fused: bool = False
    poison_buffer: bool = False


class BreakableConfig(TinyConfig):
    task: str = "breakable_task:BreakableTask"
    harm: Harm = Harm()


@dataclass(frozen=True)
class HarmfulTransform:
    harm: Harm

    def __call__(self, sample: Any, rng: Any) -> dict[str, torch.Tensor]:
        tensors = to_tensors(sample, rng)
        if self.harm.key is not None and self.harm.key in sample["__key__"].decode():
            tensors["y"] = tensors["y"] * (float("nan") if self.harm.nan else self.harm.factor)
        return tensors


class BreakableTask(TinyTask):
    Config = BreakableConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        if config.harm.fused:
            self.adam = torch.optim.Adam(self.first.parameters(), lr=config.train.lr_g, fused=True)
            self.sgd = torch.optim.SGD(self.second.parameters(), lr=config.train.lr_d, momentum=0.9, fused=True)

    @classmethod
    def transform_of(cls, config):
        return HarmfulTransform(config.harm)

    def step(self, micro_batches, *, global_batch, reduce):
        shares = super().step(micro_batches, global_batch=global_batch, reduce=reduce)
        if self.config.harm.poison_buffer and bool(shares["loss"].isnan()):
            # As batch norm does: what a forward pass leaves behind is no optimiser's business.
            self.first[1].running_mean.fill_(float("nan"))
        return shares

    def balance(self):
        return {"loss": Balance(None, None, above="the loss wins", slows_above="sgd")}
