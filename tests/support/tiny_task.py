"""A task that has nothing to do with inpainting: it learns to sum bytes. Small enough to train in milliseconds.

It has all that makes resuming hard: two optimisers, a buffer, randomness inside the step, a counter.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import nn

from trainplane.task import Exported, Task, Validation
from trainplane.train.config import TrainConfig
from trainplane.train.run_config import RunConfig

WIDTH = 8


class TinyTrainConfig(TrainConfig):
    """The learning rates of the two players, beside the settings of any run."""

    lr_g: float = Field(1e-4, gt=0)
    lr_d: float = Field(1e-5, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)


class TinyConfig(RunConfig):
    """Nothing else beyond what is true of any run."""

    task: str = "tiny_task:TinyTask"
    train: TinyTrainConfig


def to_tensors(sample: Any, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """The first bytes of the picture member as features, with noise; their mean is the target."""
    data = np.frombuffer(sample["png"], np.uint8)[-2 * WIDTH : -WIDTH].astype(np.float32) / 255
    return {
        "x": torch.from_numpy(data + rng.normal(0, 0.01, WIDTH).astype(np.float32)),
        "y": torch.tensor([float(data.mean())]),
    }


class TinyTask(Task):
    """Two linear players with an optimiser each."""

    Config = TinyConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        self.first = nn.Sequential(
            nn.Linear(WIDTH, WIDTH), nn.BatchNorm1d(WIDTH, affine=False, track_running_stats=True)
        )
        self.second = nn.Linear(WIDTH, 1)
        self.adam = torch.optim.Adam(self.first.parameters(), lr=config.train.lr_g, betas=config.train.betas)
        self.sgd = torch.optim.SGD(self.second.parameters(), lr=config.train.lr_d, momentum=0.9)
        self.num_steps = 0

    def modules(self):
        return {"first": self.first, "second": self.second}

    def optimizers(self):
        return {"adam": self.adam, "sgd": self.sgd}

    def counters(self):
        return {"num_steps": self.num_steps}

    def load_counters(self, counters):
        self.num_steps = int(counters["num_steps"])

    @classmethod
    def transform_of(cls, config):
        return to_tensors

    def step(self, micro_batches, *, global_batch, reduce):
        for optimizer in self.optimizers().values():
            optimizer.zero_grad()
        self.first.eval()
        total = torch.zeros(())
        for batch in micro_batches:
            noise = 0.01 * torch.randn_like(batch["y"])
            loss = (self.second(self.first(batch["x"])) - batch["y"] - noise).square().sum() / global_batch
            loss.backward()
            total = total + loss.detach()
        parameters = [p for module in self.modules().values() for p in module.parameters()]
        reduce.sum_([p.grad for p in parameters])
        for optimizer in self.optimizers().values():
            optimizer.step()
        self.num_steps += 1
        return {"loss": total}

    def validate(self, samples, *, reduce, gallery):
        rng = np.random.default_rng(0)
        errors = torch.zeros(2, dtype=torch.float64)
        self.first.eval()
        with torch.no_grad():
            for _, sample in samples:
                batch = to_tensors(sample, rng)
                error = (self.second(self.first(batch["x"][None])) - batch["y"]).abs().double().sum()
                errors += torch.stack([error, torch.ones((), dtype=torch.float64)])
        reduce.sum_([errors])
        return Validation({"error": float(errors[0] / errors[1])})

    def export(self, folder: Path) -> Exported:
        (folder / "weights.json").write_text(json.dumps(self.second.weight.tolist()))
        return Exported(loader_module="tiny_task", code_paths=[Path(__file__)], requirements=[])
