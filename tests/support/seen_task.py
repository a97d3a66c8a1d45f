"""The tiny task without noise of its own in the step, which writes down what each rank was given and what it lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tiny_task import TinyConfig, TinyTask

from trainplane.train.world import World


class SeenConfig(TinyConfig):
    """`seen`: the folder to write to."""

    task: str = "seen_task:SeenTask"
    seen: str


class SeenTask(TinyTask):
    Config = SeenConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        self.world = World.current()

    def step(self, micro_batches, *, global_batch, reduce):
        (batch,) = micro_batches
        for optimizer in self.optimizers().values():
            optimizer.zero_grad()
        self.first.eval()
        loss = (self.second(self.first(batch["x"])) - batch["y"]).square().sum() / global_batch
        loss.backward()
        reduce.sum_([p.grad for module in self.modules().values() for p in module.parameters()])
        for optimizer in self.optimizers().values():
            optimizer.step()
        self.num_steps += 1
        file = Path(self.config.seen) / f"step-{self.num_steps:03d}-rank-{self.world.rank}.safetensors"
        save_file({**{name: value.clone() for name, value in batch.items()}, "loss": loss.detach()}, str(file))
        return {"loss": loss.detach()}
