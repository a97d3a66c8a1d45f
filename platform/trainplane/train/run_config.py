"""Configuration of one run, and the part that identifies it.

A task extends `RunConfig` with its own sections (`model`, `loss`), so every name a user can type is declared once. The
*digest* of a configuration is the sha256 of its canonical JSON.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from trainplane.config.canonical import canonical_json
from trainplane.config.section import ModelName, Section, about, without_later_defaults
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.train.config import TrainConfig
from trainplane.train.guard.policy import GuardConfig


class DataConfig(Section):
    """Datasets and how they are read.

    An address is `s3://…`, a folder, or a name inside the context's dataset store.
    """

    train: str = Field(
        description="training dataset", json_schema_extra=about(also=["dataset", "data", "train_data", "path", "root"])
    )
    mix: dict[str, float] = Field(
        {},
        description="further training datasets, each with its share of every batch, 0 to 1; `train` has the rest",
        json_schema_extra=about(also=["train_sets", "weights", "mixture"], later=True),
    )
    grown_from: str | None = Field(
        None,
        description="earlier version of the training dataset, NAME@NUMBER or its digest: the run of these settings on "
        "that one goes on, with its whole state, on this one; null: another dataset is another run",
        json_schema_extra=about(later=True),
    )
    val: str | None = Field(
        None,
        description="held-out dataset; null: no validation",
        json_schema_extra=about(also=["validation", "valid", "eval", "val_data", "test"]),
    )
    val_sets: dict[str, str] = Field(
        {},
        description="further held-out datasets by a name of yours; their metrics are val/NAME/…",
        json_schema_extra=about(also=["val_datasets", "eval_sets"], later=True),
    )
    val_samples: int = Field(
        256, ge=1, description="held-out samples measured at each validation", json_schema_extra=about(unit="samples")
    )
    on_damage: Literal["fail", "quarantine"] = Field("fail", description="reaction to a damaged sample")
    damage_budget: int = Field(
        10,
        ge=0,
        description="samples that each rank may quarantine before the run fails anyway, counted from its start",
        json_schema_extra=about(unit="samples"),
    )
    loader_workers: int = Field(
        0,
        ge=0,
        le=256,
        description="decoding processes per rank; 0 decodes in a thread of the rank",
        json_schema_extra=about(unit="processes", also=["num_workers", "dataloader_workers"]),
    )
    prefetch: int = Field(
        2,
        ge=1,
        le=1024,
        description="batches decoded ahead, per loader worker",
        json_schema_extra=about(unit="batches", also=["prefetch_factor"]),
    )
    cache_dir: str | None = Field(
        None,
        description="folder on each host that keeps shards for later epochs and runs; null: no cache",
        json_schema_extra=about(related=["cache"]),
    )
    cache_bytes: int = Field(
        100 * 2**30,
        ge=1,
        description="bytes that the cache of a host may take, default 100 GiB",
        json_schema_extra=about(unit="bytes", also=["cache_size"]),
    )

    @field_validator("cache_dir")
    @classmethod
    def _absolute(cls, folder: str | None) -> str | None:
        # On a cluster's hosts there is no common folder that it could be relative to.
        if folder is not None and not folder.startswith(("/", "~")):
            raise ValueError(
                f"data.cache_dir={folder!r} is relative; give an absolute folder, or one that begins with ~"
            )
        return folder

    @field_validator("mix")
    @classmethod
    def _shares_leave_a_rest(cls, mix: dict[str, float]) -> dict[str, float]:
        for name, share in mix.items():
            if not 0 < share < 1:
                raise ValueError(
                    f"data.mix gives {name} {share:g} of each batch; give it a share between 0 and 1, such as 0.2"
                )
        if (whole := math.fsum(mix.values())) >= 1:
            raise ValueError(
                f"data.mix gives away {whole:g} of each batch, and data.train has the rest; let the shares add up to "
                "less than 1"
            )
        return mix

    @field_validator("val_sets")
    @classmethod
    def _names_fit_metrics(cls, sets: dict[str, str]) -> dict[str, str]:
        for name in sets:
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,30}", name):
                raise ValueError(
                    f"data.val_sets has the name {name!r}, which is part of metrics' names; give it up to 31 lower "
                    "case letters, digits, - and _"
                )
        return sets

    @model_validator(mode="after")
    def _one_set_grows(self) -> DataConfig:
        if self.mix and self.grown_from is not None:
            raise ValueError(
                f"data.grown_from={self.grown_from} goes on on one dataset that has grown, and data.mix names several; "
                "leave one of them out (train.start_from=runs:/RUN begins at that run's weights with any data)"
            )
        return self

    @model_validator(mode="after")
    def _further_sets_have_a_first(self) -> DataConfig:
        if self.val_sets and self.val is None:
            name, address = next(iter(self.val_sets.items()))
            raise ValueError(
                f"data.val_sets.{name}={address} is a further held-out dataset, and data.val, the first one, is not "
                f"set; set data.val={address}"
            )
        return self

    @property
    def cache(self) -> CacheConfig | None:
        """Folder and size of each host's cache."""
        return CacheConfig(self.cache_dir, self.cache_bytes) if self.cache_dir else None


class TrackingConfig(Section):
    """Records of the run on the tracking server."""

    experiment: str = Field(
        "isnet", description="MLflow experiment", json_schema_extra=about(also=["project", "experiment_name"])
    )
    require: bool = Field(
        False, description="refuse to start while MLflow does not answer; false: record on disk until it does"
    )
    gallery: int = Field(
        4, ge=0, description="held-out samples shown at every validation", json_schema_extra=about(unit="samples")
    )
    register_as: ModelName | None = Field(
        None,
        description="registered model that gets the finished run as a new version",
        json_schema_extra=about(also=["register", "model_name"]),
    )


class RunConfig(Section):
    """One run; tasks derive from it and add sections."""

    name: str = Field(
        ...,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="name of the run: lower case, digits, - and _",
        json_schema_extra=about(also=["run_name"]),
    )
    task: str = Field(..., description="model that is trained, as package.module:Class")
    data: DataConfig
    train: TrainConfig
    guard: GuardConfig = GuardConfig()
    tracking: TrackingConfig = TrackingConfig()

    def digest(self) -> str:
        """sha256 over the canonical JSON of every value."""
        return hashlib.sha256(canonical_json(without_later_defaults(self))).hexdigest()

    def identity(self) -> dict[str, Any]:
        """Settings that decide the trained weights.

        Without those that only say where, how long or how often, so more steps or other workers are the same run. The
        run key holds the datasets' digests instead of addresses. Schedules count with resolved values: where rates fall
        until `train.steps`, that number is part.
        """
        # Replace the schedule's settings by their resolved values. A flat schedule leaves no trace, so runs from before
        # schedules existed keep their keys.
        tree = self._identity_part(without_later_defaults(self))
        for name in SCHEDULE:
            del tree["train"][name]
        schedule = self.train.schedule
        return tree if schedule.is_flat else tree | {"rates": asdict(schedule)}

    def special(self) -> dict[str, Any]:
        """Settings of the identity that differ from the defaults."""
        return self._identity_part(self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "task"}))

    @staticmethod
    def _identity_part(tree: dict[str, Any]) -> dict[str, Any]:
        for section, names in NOT_IDENTITY.items():
            for name in names or list(tree.get(section, {})):
                tree.get(section, {}).pop(name, None)
        return tree


# Section -> settings that are no part of a run's identity; an empty tuple means the whole section.
NOT_IDENTITY: dict[str, tuple[str, ...]] = {
    "data": (
        # The digest of the training data stands for these two, shares included.
        "train",
        "mix",
        "val",
        "val_sets",
        "val_samples",
        "damage_budget",
        "loader_workers",
        "prefetch",
        "cache_dir",
        "cache_bytes",
    ),
    "train": (
        "steps",
        "workers",
        "resize_every_s",
        "use_gpu",
        "cpus_per_worker",
        "threads",
        "wait_for_nodes",
        "cudnn_benchmark",
        "stall_s",
        "collective_timeout_s",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_best",
        "best_metric",
        "best_mode",
        "keep_every",
        "price_per_hour",
        "validate_every",
        "profile",
        "log_every",
        # The start's digest is part of the identity, not where it was read.
        "start_from",
        "start_from_strict",
        "max_hours",
        "patience",
    ),
    "guard": ("saved_batches",),
    "tracking": (),
}

# Settings of section `train` that the identity holds as `rates`, resolved by `TrainConfig.schedule`.
SCHEDULE = ("lr_schedule", "lr_warmup", "lr_decay_from", "lr_decay_until", "lr_end")


def is_identity_setting(name: str) -> bool:
    """True if the setting (a dotted name) identifies the run."""
    section, _, path = name.partition(".")
    excluded = NOT_IDENTITY.get(section)
    return excluded is None or (bool(excluded) and path.partition(".")[0] not in excluded)
