"""The tiny task, which meets NaN where its configuration says so: in its metric, or in its loss."""

from __future__ import annotations

import math
import os
import time
from typing import Literal

from tiny_task import TinyConfig, TinyTask

from trainplane.config.section import Section
from trainplane.task import Validation


class Trouble(Section):
    """Which trouble, by a setting that a search explores."""

    number: int = 0
    nan_in: Literal["nothing", "metric", "loss"] = "nothing"
    every: int = 4
    dies_once: str | None = None
    pause_s: float = 0.0


class NanConfig(TinyConfig):
    task: str = "nan_task:NanTask"
    trouble: Trouble = Trouble()


class NanTask(TinyTask):
    Config = NanConfig

    @property
    def is_lost(self):
        return self.config.trouble.number % self.config.trouble.every == self.config.trouble.every - 1

    def step(self, micro_batches, *, global_batch, reduce):
        trouble = self.config.trouble
        time.sleep(trouble.pause_s)
        if trouble.dies_once and self.num_steps == 7 and trouble.number == 1 and not os.path.exists(trouble.dies_once):
            open(trouble.dies_once, "x").close()
            os._exit(9)
        shares = super().step(micro_batches, global_batch=global_batch, reduce=reduce)
        if trouble.nan_in == "loss" and self.is_lost:
            shares = {"loss": shares["loss"] * math.nan}
        return shares

    def validate(self, samples, *, reduce, gallery):
        found = super().validate(samples, reduce=reduce, gallery=gallery).metrics["error"]
        trouble = self.config.trouble
        if trouble.nan_in == "metric" and self.is_lost:
            found = math.nan
        # Known ranks: the trial of number 0 is the best one, whatever was learnt.
        return Validation({"error": found, "rank": trouble.number + 1.0 / (self.num_steps + 1) + 0 * found})
