"""Frozen run configuration: YAML, dotted overrides, and errors that name the field and the remedy.

`load(schema, source, overrides)` builds one immutable tree. A task extends `RunConfig` with its own sections
(`model`, `loss`), so that every name a user can type is declared in exactly one place. The *digest* of a
configuration is the sha256 of its canonical JSON: two runs with equal digests were asked to do the same thing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError, field_validator

from trainplane.config import yaml
from trainplane.config.section import ModelName, Section
from trainplane.data.read.cache_dir import CachePlace
from trainplane.errors import UserError, nearest
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
    def cache(self) -> CachePlace | None:
        """Where a host keeps what it has read."""
        return CachePlace(self.cache_dir, self.cache_bytes) if self.cache_dir else None


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


ConfigT = TypeVar("ConfigT", bound=Section)


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no spaces, UTF-8: the form whose sha256 is a digest everywhere in this project."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a preset's name or a YAML file") from error
    except yaml.KeyTwice as error:
        raise UserError(f"{path}: {error}, and only one of them can be meant; keep that one") from error
    except (yaml.NoYaml, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({error}); correct the file") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds {type(loaded).__name__}, need sections such as 'train:' and 'data:'")
    return loaded


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`a.b=c` on top of a tree; values are read as YAML (1e-4, true, [1, 2], null), and the tree is not changed."""
    result: dict[str, Any] = json.loads(json.dumps(tree))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path or path.startswith("-"):
            raise UserError(f"{override!r} is no override; need section.key=value, for example train.steps=200")
        value = _scalar(text, override)
        node = result
        *parents, leaf = path.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise UserError(f"{override!r}: {parent!r} is a value, not a section; write it as {parent}=…")
            node = child
        node[leaf] = value
    return result


def _scalar(text: str, override: str) -> Any:
    try:
        value = yaml.load(text)
    except yaml.KeyTwice as error:
        raise UserError(f"{override!r}: {error}, and only one of them can be meant; keep that one") from error
    except yaml.NoYaml as error:
        raise UserError(f"{override!r}: the value is no YAML; quote it, for example 'a.b=\"text\"'") from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-4 as text, which nobody who types a learning rate means.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def build(schema: type[ConfigT], tree: Mapping[str, Any]) -> ConfigT:
    """The validated, frozen configuration; a `UserError` lists every fault with its field and remedy."""
    try:
        return schema.model_validate(_with_floats(tree))
    except ValidationError as error:
        raise UserError("; ".join(_sentences(schema, error.errors()))) from error


def _with_floats(value: Any) -> Any:
    """YAML 1.1 reads `1e-4` as text; numbers written so in a file are numbers."""
    if isinstance(value, Mapping):
        return {key: _with_floats(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_with_floats(child) for child in value]
    if isinstance(value, str) and value[:1] in "0123456789.-" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _sentences(schema: type[Section], faults: Sequence[Mapping[str, Any]]) -> list[str]:
    """One sentence a field; a setting of several forms has a fault for each form that it does not fit."""
    by_field: dict[str, list[Mapping[str, Any]]] = {}
    for fault in faults:
        by_field.setdefault(_field(schema, fault["loc"]), []).append(fault)
    return [_sentence(schema, dotted, found) for dotted, found in by_field.items()]


def _field(schema: type[Section], place: Sequence[int | str]) -> str:
    """The dotted name of the setting; what pydantic appends for one form of several, or one entry, is left out."""
    node: type[Section] | None = schema
    names: list[str] = []
    for part in place:
        if node is None:
            break
        names.append(str(part))
        # A number is a place in a list of sections: what follows belongs to one of those.
        node = node if isinstance(part, int) else _section_at(node, str(part))
    return ".".join(names)


def _sentence(schema: type[Section], dotted: str, faults: Sequence[Mapping[str, Any]]) -> str:
    path, fault = dotted.split("."), faults[0]
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {dotted!r}{nearest(path[-1], _names_at(schema, path[:-1]))}"
    if fault["type"] == "missing" and len(path) == len(fault["loc"]):
        return f"{dotted} is not set; add it to the preset or give {dotted}=…"
    if fault["type"] == "value_error":
        message = str(fault["msg"]).removeprefix("Value error, ")
        # A validator of a single value knows its value, not the name of the setting.
        return f"{dotted}={message}" if message.startswith(repr(fault.get("input"))) else message
    messages = [str(found["msg"]) for found in faults]
    either = ", or ".join(dict.fromkeys(message[0].lower() + message[1:] for message in messages))
    return f"{dotted}={fault.get('input')!r}: {either}; give {dotted}=… accordingly"


def _section_at(schema: type[Section], name: str) -> type[Section] | None:
    """The section below `schema` of that name; None where there is a value, or nothing."""
    field = schema.model_fields.get(name)
    annotation: Any = field.annotation if field else None
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)


def _names_at(schema: type[Section], path: Sequence[str]) -> list[str]:
    """Names allowed inside the section at `path`."""
    node = schema
    for part in path:
        below = _section_at(node, part)
        if below is None:
            return []
        node = below
    return list(node.model_fields)
