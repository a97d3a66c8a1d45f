"""Section `train`: length, batch, workers, learning rates, checkpoints."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, model_validator

from trainplane.config.section import Seed, about
from trainplane.errors import CLI
from trainplane.observe.profiled_steps import steps_of
from trainplane.train import batch_size
from trainplane.train.schedule import LrCurve
from trainplane.train.start.settings import StartConfig


def _checked_cadence(text: int | str) -> int | str:
    """Returns the text; raises `ValueError` where it is no cadence."""
    Cadence.of(text)
    return text


def _checked_steps(text: str) -> str:
    """Returns the text; raises `ValueError` where it names no steps."""
    steps_of(text)
    return text


Every = Annotated[int | str, AfterValidator(_checked_cadence)]
"""Cadence as the user writes it: whole steps, or text such as "90s" or "1 epoch"."""

Workers = Annotated[int, Field(ge=1)]


class TrainConfig(StartConfig):
    """Length, batch, workers, schedule and checkpoints of a run."""

    # Length and batch.
    steps: int = Field(
        ...,
        ge=1,
        description="global steps",
        json_schema_extra=about(
            unit="steps", also=["iterations", "max_steps", "max_iters", "num_steps"], related=["epochs", "max_epochs"]
        ),
    )
    global_batch: int = Field(
        ...,
        ge=1,
        description="samples per global step, at any number of workers",
        json_schema_extra=about(unit="samples", also=["batch_size", "batch", "bs"]),
    )
    micro_batch: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="samples per forward pass and rank; default: all of the rank's share; "
        "auto: the same, and half of it whenever memory runs out",
        json_schema_extra=about(
            unit="samples", related=["accumulation", "gradient_accumulation", "accumulate_grad_batches"]
        ),
    )
    # Ranks and the resources of each.
    workers: Workers | tuple[Workers, Workers] = Field(
        1,
        description="ranks; 1 trains in this process unless the context names a cluster; "
        "[2, 8] takes as many as the cluster has room for, if they divide the global batch",
        json_schema_extra=about(unit="ranks", also=["ranks", "devices", "gpus", "num_gpus", "world_size", "nproc"]),
    )
    resize_every_s: float = Field(
        60.0,
        gt=0,
        description="seconds between looks for room to grow, for elastic runs; two in a row must find it",
        json_schema_extra=about(unit="s"),
    )
    use_gpu: bool | Literal["auto"] = Field(
        "auto",
        description="one GPU per rank; auto: where there is one",
        json_schema_extra=about(related=["device", "gpu", "cuda", "cpu", "accelerator"]),
    )
    cpus_per_worker: float = Field(
        1.0,
        gt=0,
        description="CPUs that Ray reserves for each rank",
        json_schema_extra=about(unit="CPUs", also=["cpus", "num_cpus"]),
    )
    threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="torch threads per rank; default: as many as when the run started",
        json_schema_extra=about(unit="threads", also=["num_threads"]),
    )
    # How torch computes.
    cudnn_benchmark: bool = Field(
        False,
        description="try the convolution kernels of a GPU and take the fastest; another start may take another one",
        json_schema_extra=about(later=True, also=["benchmark"]),
    )
    matmul_precision: Literal["highest", "high", "medium"] = Field(
        "highest",
        description="float32 products and convolutions on GPUs: exact, or through TF32 or bf16, several times faster",
        json_schema_extra=about(later=True, also=["float32_matmul_precision"], related=["tf32", "allow_tf32"]),
    )
    deterministic: bool = Field(
        False,
        description="only kernels whose sums have a fixed order, so that GPUs repeat a run bit by bit; slower",
        json_schema_extra=about(later=True, also=["reproducible", "use_deterministic_algorithms"]),
    )
    # Limits of waiting.
    wait_for_nodes: NonNegativeFloat | Literal["auto"] = Field(
        "auto",
        description="seconds to wait for nodes that a run needs and the cluster lacks; auto: 15 minutes where an "
        "autoscaler can start them, else 0",
        json_schema_extra=about(later=True, unit="s", related=["autoscaler", "pending", "queue"]),
    )
    stall_s: float = Field(
        600.0,
        ge=10,
        description="seconds without any movement of the ranks after which the run names the rank that they wait for "
        "and replaces the group",
        json_schema_extra=about(later=True, unit="s"),
    )
    collective_timeout_s: float = Field(
        1800.0,
        ge=20,
        description="seconds after which a sum over the ranks fails, longer than train.stall_s",
        json_schema_extra=about(later=True, unit="s", also=["nccl_timeout"]),
    )
    # Learning rates by step; the rates themselves are settings of the task.
    lr_schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="how all rates fall after train.lr_decay_from; they depend on the step alone",
        json_schema_extra=about(related=["scheduler", "lr_scheduler", "schedule"]),
    )
    lr_warmup: int = Field(
        0,
        ge=0,
        description="steps in which all rates rise linearly from zero; 0: no warm-up",
        json_schema_extra=about(unit="steps", also=["warmup", "warmup_steps"]),
    )
    lr_decay_from: int | None = Field(
        None,
        ge=0,
        description="steps done before the rates begin to fall; default: the end of the warm-up",
        json_schema_extra=about(unit="steps"),
    )
    lr_decay_until: int | None = Field(
        None,
        ge=1,
        description="steps done when the rates have fallen; default: train.steps; raising train.steps later then "
        "starts a new run",
        json_schema_extra=about(unit="steps"),
    )
    lr_end: float = Field(0.0, ge=0, le=1, description="rates after the fall, as a share of the full rates")
    seed: Seed = Field(
        10, description="seeds weights, order, crops and masks", json_schema_extra=about(also=["random_seed"])
    )
    # Checkpoints: when, and which ones stay.
    checkpoint_every: Every = Field(
        1000,
        description='between checkpoints: steps, or "300s", "1 epoch"',
        json_schema_extra=about(unit="steps, time or epochs", also=["save_every", "save_steps", "checkpoint_interval"]),
    )
    keep_checkpoints: int = Field(
        2,
        ge=1,
        description="newest checkpoints kept, at least two until the last step; the last step's and pinned ones stay",
        json_schema_extra=about(unit="checkpoints", also=["save_total_limit", "max_to_keep"]),
    )
    keep_best: int = Field(
        0,
        ge=0,
        description="best checkpoints kept in addition, by train.best_metric",
        json_schema_extra=about(unit="checkpoints", also=["save_top_k"]),
    )
    best_metric: str | None = Field(
        None, description="metric of the validation at a checkpoint's step, such as val/psnr"
    )
    best_mode: Literal["max", "min"] = Field("max", description="whether more or less of train.best_metric is better")
    keep_every: int | None = Field(
        None,
        ge=1,
        description="steps; the first checkpoint at or after each multiple is never deleted; null: off",
        json_schema_extra=about(unit="steps"),
    )
    # Gradients.
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="longest gradient of each network, over all its parameters; longer ones are scaled; null: off",
        json_schema_extra=about(also=["grad_clip", "max_grad_norm", "clip_grad_norm", "gradient_clip_val"], later=True),
    )
    # When a run ends before its last step.
    max_hours: float | None = Field(
        None,
        gt=0,
        description="hours of training, of all attempts, after which the run saves and ends; null: no limit",
        json_schema_extra=about(unit="h", also=["max_time", "time_limit"], later=True),
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="validations in a row without a better train.best_metric after which the run saves and ends; "
        "null: off",
        json_schema_extra=about(
            unit="validations", also=["early_stopping_patience"], related=["early_stopping"], later=True
        ),
    )
    # Validation and records.
    validate_every: Every = Field(
        1000,
        description="between validations, in the same form",
        json_schema_extra=about(
            unit="steps, time or epochs", also=["eval_every", "eval_steps", "val_every", "val_interval"]
        ),
    )
    price_per_hour: float | None = Field(
        None,
        ge=0,
        description=f"price of one worker, in any currency, for the cost in `{CLI} plan`",
        json_schema_extra=about(unit="money per hour", also=["price"]),
    )
    profile: Annotated[str, AfterValidator(_checked_steps)] | None = Field(
        None,
        description="steps whose traces of torch's profiler become artifacts of the run, such as 100..110; null: none",
        json_schema_extra=about(unit="steps", also=["profiler"], later=True),
    )
    log_every: Every = Field(
        10,
        description="between recorded training metrics, in the same form; the guard decides then, so prefer steps",
        json_schema_extra=about(unit="steps, time or epochs", also=["log_steps", "log_interval", "logging_steps"]),
    )

    @model_validator(mode="after")
    def _check_batch(self) -> TrainConfig:
        # The range first: an empty one divides nothing.
        if self.min_workers > self.max_workers:
            raise ValueError(
                f"train.workers=[{self.min_workers}, {self.max_workers}] begins above its end; "
                f"write [{self.max_workers}, {self.min_workers}]"
            )
        batch_size.check_divisible(
            global_batch=self.global_batch,
            low=self.min_workers,
            high=self.max_workers,
            micro_batch=self.fixed_micro,
            room=max(1, int((os.cpu_count() or 1) / self.cpus_per_worker)),
        )
        return self

    @model_validator(mode="after")
    def _check_numerics(self) -> TrainConfig:
        if self.deterministic and self.cudnn_benchmark:
            raise ValueError(
                "train.deterministic=true and train.cudnn_benchmark=true: kernels chosen anew at each start are not "
                "always the same; set one of them to false"
            )
        return self

    @model_validator(mode="after")
    def _check_stall(self) -> TrainConfig:
        if self.stall_s >= self.collective_timeout_s:
            raise ValueError(
                f"train.stall_s={self.stall_s:g} and train.collective_timeout_s={self.collective_timeout_s:g}: a sum "
                "would fail before the stall is noticed; "
                f"set train.stall_s={self.collective_timeout_s / 2:g}, or a longer train.collective_timeout_s"
            )
        return self

    @model_validator(mode="after")
    def _check_best_metric(self) -> TrainConfig:
        for name in ("keep_best", "patience"):
            if (value := getattr(self, name)) and self.best_metric is None:
                raise ValueError(
                    f"train.{name}={value} and train.best_metric is not set; name a metric of validation, "
                    "such as train.best_metric=val/psnr, and train.best_mode=min where less is better"
                )
        return self

    @model_validator(mode="after")
    def _check_schedule(self) -> TrainConfig:
        curve = self.schedule
        if self.lr_warmup >= self.steps:
            raise ValueError(
                f"train.lr_warmup={self.lr_warmup} does not end within train.steps={self.steps}; give a smaller one"
            )
        # Without a decay its bounds mean nothing.
        if curve.kind == "constant":
            for name in ("lr_decay_from", "lr_decay_until"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"train.{name}={getattr(self, name)} and train.lr_schedule=constant, where rates never "
                        "fall; set train.lr_schedule=linear or cosine"
                    )
            return self
        # Rise, stand, fall: in this order.
        if not self.lr_warmup <= curve.decay_from < curve.decay_until:
            raise ValueError(
                f"rates would rise until step {self.lr_warmup} and fall from step {curve.decay_from} to "
                f"{curve.decay_until}; need train.lr_warmup ≤ train.lr_decay_from < train.lr_decay_until "
                "(default: train.steps)"
            )
        # After a fall to 0 a step changes nothing.
        if self.lr_end == 0 and self.steps > curve.decay_until:
            raise ValueError(
                f"train.steps={self.steps} and rates that are 0 after train.lr_decay_until={curve.decay_until}: those "
                "steps would learn nothing; give a larger train.lr_decay_until, or train.lr_end above 0"
            )
        return self

    @property
    def schedule(self) -> LrCurve:
        """Factor of the task's learning rates at each step."""
        return LrCurve(
            kind=self.lr_schedule,
            warmup=self.lr_warmup,
            decay_from=self.lr_warmup if self.lr_decay_from is None else self.lr_decay_from,
            decay_until=self.steps if self.lr_decay_until is None else self.lr_decay_until,
            end=self.lr_end,
        )

    @property
    def min_workers(self) -> int:
        """Smallest number of ranks."""
        return self.workers if isinstance(self.workers, int) else self.workers[0]

    @property
    def max_workers(self) -> int:
        """Largest number of ranks."""
        return self.workers if isinstance(self.workers, int) else self.workers[1]

    @property
    def fixed_micro(self) -> int | None:
        """Micro-batch that the user fixed, else None."""
        return None if self.micro_batch == "auto" else self.micro_batch

    @property
    def world_sizes(self) -> list[int]:
        """Admissible numbers of ranks, ascending; never empty."""
        return batch_size.admissible_ranks(
            global_batch=self.global_batch, low=self.min_workers, high=self.max_workers, micro_batch=self.fixed_micro
        )


# Amount and unit of a cadence.
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|seconds?|min|minutes?|h|hours?|steps?|epochs?)")


# Seconds of a unit, by its first letter.
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Cadence:
    """Interval between two events, in steps, seconds or epochs.

    Users write `500` (steps), `"90s"`, `"5min"`, `"2h"` or `"1 epoch"`. Steps and epochs are the same on every rank and
    resumed run. Seconds are rank 0's clock, which informs the others (`triggers`); they differ from run to run.
    """

    amount: float
    unit: Literal["steps", "seconds", "epochs"]

    @staticmethod
    def of(text: int | str) -> Cadence:
        """Parses a cadence; `ValueError` names the possible forms."""
        # Split into amount and unit; a plain number counts steps.
        if isinstance(text, int):
            amount, unit = float(text), "steps"
        else:
            match = _FORM.fullmatch(text.strip().lower())
            if match is None:
                raise ValueError(f'{text!r} is no cadence; write 500 (steps), "90s", "5min", "2h" or "1 epoch"')
            amount, unit = float(match[1]), match[2]
        # Convert to one of three units.
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
        """Interval in whole steps, at least 1; None for seconds."""
        if self.unit == "seconds":
            return None
        return max(1, round(self.amount * (steps_per_epoch if self.unit == "epochs" else 1)))
