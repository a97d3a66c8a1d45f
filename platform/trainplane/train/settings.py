"""Section `train` of a configuration: how long, how much at once, on how many ranks, and what is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from trainplane.section import Section
from trainplane.train import batches
from trainplane.train.cadence import Cadence


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
    threads: int | None = Field(None, ge=1, description="torch threads per rank; default: Ray's or torch's own")
    lr_g: float = Field(1e-4, gt=0, description="learning rate of the generator")
    lr_d: float = Field(1e-5, gt=0, description="learning rate of the discriminator")
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        (0.0, 0.9), description="Adam's betas of both players"
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward and backward passes")
    compile: bool = Field(False, description="torch.compile the networks")
    channels_last: bool = Field(False, description="NHWC memory format")
    ema: float | None = Field(None, gt=0, lt=1, description="decay of the generator's moving average; none: off")
    seed: int = Field(10, ge=0, description="seeds weights, order, crops and masks")
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
        batches.check(
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
        return batches.admissible(
            global_batch=self.global_batch, low=self.min_workers, high=self.max_workers, micro_batch=self.fixed_micro
        )
