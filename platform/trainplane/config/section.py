"""Base class and common types of configuration sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
"""Name of a registered model, checked before a training whose result could not be registered."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of random numbers, within the range that both torch and numpy accept."""


def about(
    *, unit: str = "", also: Sequence[str] = (), related: Sequence[str] = (), later: bool = False
) -> dict[str, Any]:
    """Facts of a setting for reference, hints and digests.

    Args:
        unit: unit of its numbers.
        also: names that other programs give to this setting.
        related: names of other programs' settings whose values mean something else, such as epochs for steps.
        later: the setting is younger than runs that are stored, so its default must leave no trace in digests.
    """
    return {"unit": unit, "also": list(also), "related": list(related), "later": later}


class NoBoolean(ValueError):
    """A boolean where a section takes a number or text."""

    def __init__(self, name: str, value: bool) -> None:
        super().__init__(f"{name}={str(value).lower()} is neither a number nor text; give {name}=… accordingly")


class Section(BaseModel):
    """Immutable level of the tree; unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _reject_booleans(cls, values: Any) -> Any:
        # Pydantic would accept `true` as 1: `train.steps=true` would be a run of one step.
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _accepts_bool(field.annotation):
                raise NoBoolean(name, value)
        return values


def without_later_defaults(section: Section) -> dict[str, Any]:
    """All values as JSON, except later settings at their defaults."""
    tree = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value, facts = getattr(section, name), field.json_schema_extra
        if isinstance(facts, dict) and facts.get("later") and value == field.get_default(call_default_factory=True):
            del tree[name]
        elif isinstance(value, Section):
            tree[name] = without_later_defaults(value)
    return tree


def _accepts_bool(annotation: Any) -> bool:
    # A union accepts it if one of its parts does.
    return annotation in (bool, Any) or any(_accepts_bool(part) for part in get_args(annotation))
