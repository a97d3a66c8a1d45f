"""What every section of a configuration has in common."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
ModelName = Annotated[str, Field(pattern=f"^{MODEL_NAME}$")]
"""Name of a registered model: refused before a training whose result could not be registered under it."""

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Seed of random numbers: those of torch and numpy are seeded with as much, and no more."""


class Section(BaseModel):
    """One level of the tree: unknown names are errors, values never change after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """Pydantic would take `true` for 1, and a run of one step for what somebody meant."""
        for name, value in values.items() if isinstance(values, dict) else ():
            field = cls.model_fields.get(name)
            if isinstance(value, bool) and field is not None and not _takes_truth(field.annotation):
                raise ValueError(f"{name}={str(value).lower()} is neither a number nor text; give {name}=… accordingly")
        return values


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(_takes_truth(part) for part in get_args(annotation))
