"""The tiny task, which tells its ranks' process ids and when it comes to the moments at which they are killed."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from moments import Moments
from tiny_task import TinyConfig, TinyTask

from trainplane.train.world import World


class KillConfig(TinyConfig):
    """`moments`: the folder of the moments; `pause_s`: seconds that a step takes, until a file `hurry` is there."""

    task: str = "kill_task:KillTask"
    moments: str
    pause_s: float = 0.0


class KillTask(TinyTask):
    Config = KillConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        self.moments = Moments(Path(config.moments))
        self.is_first = World.current().is_first
        (self.moments.folder / f"rank-{World.current().rank}.pid").write_text(str(os.getpid()))

    def step(self, micro_batches, *, global_batch, reduce):
        if self.is_first:
            self.moments.reach("before", self.num_steps + 1)
        if self.config.pause_s and not (self.moments.folder / "hurry").exists():
            time.sleep(self.config.pause_s)
        return super().step(micro_batches, global_batch=global_batch, reduce=reduce)

    def counters(self):
        # Asked for when the tensors of a checkpoint have been copied, by the first rank alone.
        self.moments.reach("staging", self.num_steps)
        return super().counters()
