"""Section `train` of a configuration: how long, how much at once, on how many ranks, and what is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trainplane.config.section import Section, Seed
from trainplane.train import batch_size
from trainplane.train.schedule import Schedule


def _readable(text: int | str) -> int | str:
    Cadence.of(text)
    return text


Every = Annotated[int | str, AfterValidator(_readable)]
"""A cadence as it is written: whole steps, or text such as "90s" or "1 epoch"."""

Workers = Annotated[int, Field(ge=1)]


class TrainConfig(Section):
    """How long, how much at once, on how many ranks, and what is kept."""

    steps: int = Field(..., ge=1, description="global steps")
    global_batch: int = Field(..., ge=1, description="pictures per global step, at any number of workers")
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="pictures per forward pass and rank; default: all of the rank's share; "
        "auto: the same, and half of it whenever memory runs out",
    )
    workers: Workers | tuple[Workers, Workers] = Field(
        1,
        description="ranks; 1 trains in this process unless the context names a cluster; "
        "[2, 8] takes as many as there is room for, if they divide the global batch",
    )
    resize_every_s: float = Field(60.0, gt=0, description="seconds between looks for room to grow, where elastic")
    use_gpu: bool | Literal["auto"] = Field("auto", description="one GPU per rank; auto: where there is one")
    cpus_per_worker: float = Field(1.0, gt=0, description="CPUs that Ray reserves for each rank")
    threads: int | None = Field(
        None, ge=1, le=1024, description="torch threads per rank; default: those the run began with"
    )
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how both rates fall after train.lr_decay_from; they are a function of the step alone"
    )
    lr_warmup: int = Field(0, ge=0, description="steps in which both rates rise from nothing in a line; 0: none")
    lr_decay_from: int | None = Field(
        None, ge=0, description="steps at the full rates before they fall; default: the end of the warm-up"
    )
    lr_decay_until: int | None = Field(
        None,
        ge=1,
        description="steps after which they have fallen; default: train.steps, and then a run asked for more steps is "
        "another run, because every step would have been another",
    )
    lr_end: float = Field(0.0, ge=0, le=1, description="what they have fallen to, as a share of the full rates")
    seed: Seed = Field(10, description="seeds weights, order, crops and masks")
    checkpoint_every: Every = Field(1000, description='between checkpoints: steps, or "300s", "1 epoch"')
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="newest checkpoints kept, two at least until the last step; that one and pinned ones always stay",
    )
    keep_best: int = Field(0, ge=0, description="best checkpoints kept, too, by train.best_metric")
    best_metric: str | None = Field(None, description="of the validation at a checkpoint's step, such as val/psnr")
    best_mode: Literal["max", "min"] = Field("max", description="whether more or less of train.best_metric is better")
    keep_every: int | None = Field(
        None, ge=1, description="steps; the first checkpoint at or after each multiple stays for ever; none: no such"
    )
    validate_every: Every = Field(1000, description="between validations, likewise")
    price_per_hour: float | None = Field(
        None, ge=0, description="of one worker, in any currency: what `isnet plan` reckons with"
    )
    log_every: Every = Field(
        10, description="between recorded training metrics, likewise; the guard judges then, so prefer steps"
    )

    @model_validator(mode="after")
    def _batch_arithmetic(self) -> TrainConfig:
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"train.workers=[{self.min_workers}, {self.max_workers}] begins above its end; "
                f"write [{self.max_workers}, {self.min_workers}]"
            )
        batch_size.check(
            global_batch=self.global_batch, low=self.min_workers, high=self.max_workers, micro_batch=self.fixed_micro
        )
        return self

    @model_validator(mode="after")
    def _best_by_what(self) -> TrainConfig:
        if self.keep_best and self.best_metric is None:
            raise ValueError(
                f"train.keep_best={self.keep_best} and train.best_metric is not set; name a metric of validation, "
                "such as train.best_metric=val/psnr, and train.best_mode=min where less is better"
            )
        return self

    @model_validator(mode="after")
    def _rates_fall_inside(self) -> TrainConfig:
        found = self.schedule
        if self.lr_warmup >= self.steps:
            raise ValueError(
                f"train.lr_warmup={self.lr_warmup} does not end within train.steps={self.steps}; give a smaller one"
            )
        if found.kind == "constant":
            for name in ("lr_decay_from", "lr_decay_until"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"train.{name}={getattr(self, name)} and train.lr_schedule=constant, under which no rate "
                        "falls; set train.lr_schedule=linear or cosine"
                    )
            return self
        if not self.lr_warmup <= found.decay_from < found.decay_until:
            raise ValueError(
                f"rates would rise until step {self.lr_warmup} and fall from step {found.decay_from} to "
                f"{found.decay_until}; need train.lr_warmup ≤ train.lr_decay_from < train.lr_decay_until "
                "(default: train.steps)"
            )
        if self.lr_end == 0 and self.steps > found.decay_until:
            raise ValueError(
                f"train.steps={self.steps} and rates that are 0 after train.lr_decay_until={found.decay_until}: those "
                "steps would learn nothing; give a larger train.lr_decay_until, or train.lr_end above 0"
            )
        return self

    @property
    def schedule(self) -> Schedule:
        """Factors of each step, relative to the task's own learning rates."""
        return Schedule(
            kind=self.lr_schedule,
            warmup=self.lr_warmup,
            decay_from=self.lr_warmup if self.lr_decay_from is None else self.lr_decay_from,
            decay_until=self.steps if self.lr_decay_until is None else self.lr_decay_until,
            end=self.lr_end,
        )

    @property
    def min_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def fixed_micro(self) -> int | None:
        """The micro-batch where the user fixed one."""
        return None if self.micro_batch == "auto" else self.micro_batch

    @property
    def world_sizes(self) -> list[int]:
        """Numbers of ranks that this run may have, ascending; never empty."""
        return batch_size.admissible(
            global_batch=self.global_batch, low=self.min_workers, high=self.max_workers, micro_batch=self.fixed_micro
        )


_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|seconds?|min|minutes?|h|hours?|steps?|epochs?)")


_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Cadence:
    """Every `amount` steps or seconds."""

    amount: float
    unit: Literal["steps", "seconds", "epochs"]

    @staticmethod
    def of(text: int | str) -> Cadence:
        """Read what a user wrote; `ValueError` says what can be written."""
        if isinstance(text, int):
            amount, unit = float(text), "steps"
        else:
            found = _FORM.fullmatch(text.strip().lower())
            if found is None:
                raise ValueError(f'{text!r} is no cadence; write 500 (steps), "90s", "5min", "2h" or "1 epoch"')
            amount, unit = float(found[1]), found[2]
        if unit.startswith("epoch"):
            cadence = Cadence(amount, "epochs")
        elif unit.startswith("step"):
            cadence = Cadence(amount, "steps")
        else:
            cadence = Cadence(amount * _SECONDS[unit[0]], "seconds")
        if cadence.amount <= 0 or (cadence.unit == "steps" and cadence.amount % 1):
            raise ValueError(f"{text!r} is no cadence; need a whole number of steps, or time or epochs above 0")
        return cadence

    def steps(self, steps_per_epoch: int) -> int | None:
        """The same in steps, at least one; None where the clock decides."""
        if self.unit == "seconds":
            return None
        return max(1, round(self.amount * (steps_per_epoch if self.unit == "epochs" else 1)))
