"""Frozen run configuration: YAML, dotted overrides, and errors that name the field and the remedy.

`load(schema, source, overrides)` builds one immutable tree. A task extends `RunConfig` with its own sections
(`model`, `loss`), so that every name a user can type is declared in exactly one place. The *digest* of a
configuration is the sha256 of its canonical JSON: two runs with equal digests were asked to do the same thing.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from typing import Any, Literal

from pydantic import Field, field_validator

from trainplane.config.canonical import canonical_json
from trainplane.config.section import ModelName, Section
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.train.config import TrainConfig
from trainplane.train.guard.policy import GuardConfig


class DataConfig(Section):
    """What is read. Addresses are `s3://…`, a folder, or a name inside the context's dataset store."""

    train: str = Field(description="dataset that is trained on")
    val: str | None = Field(None, description="held-out dataset; without one nothing is validated")
    val_samples: int = Field(256, ge=1, description="held-out pictures measured at each validation")
    on_damage: Literal["fail", "quarantine"] = Field("fail", description="what a damaged sample does to the run")
    damage_budget: int = Field(
        10, ge=0, description="samples that each rank may quarantine since it started before the run fails anyway"
    )
    loader_workers: int = Field(
        0, ge=0, le=256, description="decoding processes per rank; 0 decodes in a thread of the rank"
    )
    prefetch: int = Field(2, ge=1, le=1024, description="batches decoded ahead, per loader worker")
    cache_dir: str | None = Field(
        None, description="folder on each host that keeps what was read, for later epochs and runs; none: no cache"
    )
    cache_bytes: int = Field(100 * 2**30, ge=1, description="bytes that the cache of a host may take, default 100 GiB")

    @field_validator("cache_dir")
    @classmethod
    def _absolute(cls, folder: str | None) -> str | None:
        # Relative to what, on a cluster's hosts?
        if folder is not None and not folder.startswith(("/", "~")):
            raise ValueError(
                f"data.cache_dir={folder!r} is relative; give an absolute folder, or one that begins with ~"
            )
        return folder

    @property
    def cache(self) -> CacheConfig | None:
        """Where a host keeps what it has read."""
        return CacheConfig(self.cache_dir, self.cache_bytes) if self.cache_dir else None


class TrackingConfig(Section):
    """What is recorded where people browse."""

    experiment: str = Field("isnet", description="MLflow experiment")
    require: bool = Field(
        False, description="refuse to start while MLflow does not answer, instead of recording on disk until it does"
    )
    gallery: int = Field(4, ge=0, description="held-out pictures shown at every validation")
    register_as: ModelName | None = Field(
        None, description="registered model that the finished run becomes a version of"
    )


class RunConfig(Section):
    """One run. Tasks derive from this and add their own sections."""

    name: str = Field(..., pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="lower case, digits, - and _")
    task: str = Field(..., description="package.module:Class")
    data: DataConfig
    train: TrainConfig
    guard: GuardConfig = GuardConfig()
    tracking: TrackingConfig = TrackingConfig()

    def digest(self) -> str:
        """sha256 over the canonical JSON of every value."""
        return hashlib.sha256(canonical_json(self.model_dump(mode="json"))).hexdigest()

    def identity(self) -> dict[str, Any]:
        """The settings that decide what is learnt, without those that only say where, how long or how often.

        A run goes on under the same identity on another number of workers, or with more steps. Datasets are left
        out because a run is tied to their digests, not to their addresses. A schedule of rates counts as what it comes
        to: where rates fall until `train.steps`, those are part of it.
        """
        tree = self._without_logistics(self.model_dump(mode="json"))
        for name in SCHEDULE:
            del tree["train"][name]
        schedule = self.train.schedule
        return tree if schedule.is_flat else tree | {"rates": asdict(schedule)}

    def special(self) -> dict[str, Any]:
        """Of the identity, the settings that differ from the defaults."""
        return self._without_logistics(self.model_dump(mode="json", exclude_defaults=True, exclude={"name", "task"}))

    @staticmethod
    def _without_logistics(tree: dict[str, Any]) -> dict[str, Any]:
        for section, names in NOT_IDENTITY.items():
            for name in names or list(tree.get(section, {})):
                tree.get(section, {}).pop(name, None)
        return tree


# Section -> settings that are no part of a run's identity; an empty tuple stands for the whole section.
NOT_IDENTITY: dict[str, tuple[str, ...]] = {
    "data": ("train", "val", "val_samples", "damage_budget", "loader_workers", "prefetch", "cache_dir", "cache_bytes"),
    "train": (
        "steps",
        "workers",
        "resize_every_s",
        "use_gpu",
        "cpus_per_worker",
        "threads",
        "checkpoint_every",
        "keep_checkpoints",
        "keep_best",
        "best_metric",
        "best_mode",
        "keep_every",
        "price_per_hour",
        "validate_every",
        "log_every",
    ),
    "guard": ("saved_batches",),
    "tracking": (),
}

# Settings of section `train` that `TrainConfig.schedule` sums up.
SCHEDULE = ("lr_schedule", "lr_warmup", "lr_decay_from", "lr_decay_until", "lr_end")


def decides(name: str) -> bool:
    """Whether the setting of this dotted name is part of a run's identity."""
    section, _, rest = name.partition(".")
    left_out = NOT_IDENTITY.get(section)
    return left_out is None or (bool(left_out) and rest.partition(".")[0] not in left_out)
