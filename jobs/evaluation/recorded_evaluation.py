"""Checks the evaluation that a version's tags record.

Tags can be edited in MLflow, so cards, pages and promotions read an evaluation only when it has all that `summarize`
writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainplane.registry.versions import ModelVersion

# Largest side of the square that is evaluated, pixels.
MAX_SIZE = 8192


class _Recorded(BaseModel):
    """Object whose other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Architecture(_Recorded):
    """Network of a recorded evaluation."""

    name: str
    width: int
    in_channels: int | None = None  # of ISNet and its ablations


class _Means(_Recorded):
    """Means of one bin."""

    n: int
    psnr: float | None
    ssim: float | None
    l1_percent: float | None


class _WholeEvaluation(_Recorded):
    """Evaluation with everything that ISNet reads of it."""

    model: str
    dataset: str
    dataset_digest: str
    masks: str
    masks_digest: str
    definition: str
    size: Annotated[int, Field(ge=16, le=MAX_SIZE)]
    seed: Annotated[int, Field(ge=0)]
    loading: Literal["nearest", "legacy-png", "legacy-jpeg"] = "nearest"
    refine: Literal["off", "auto"] = "off"
    pictures: Annotated[int, Field(ge=1)] | None = None
    steps: int | None = None
    architecture: _Architecture | None = None
    bins: dict[str, _Means]


def recorded_evaluation(version: ModelVersion) -> tuple[dict[str, Any] | None, list[str]]:
    """Returns a version's evaluation, and sentences about faulty tags."""
    evaluation, faults = version.evaluation, version.faults
    if evaluation is None or (fault := _fault(evaluation)) is None:
        return evaluation, faults
    return None, [*faults, f"{version.address}: tag trainplane.evaluation {fault}, so it does not count"]


def checked_entry(version: ModelVersion, aliases: Mapping[str, str]) -> dict[str, Any]:
    """A version as JSON, without a faulty evaluation."""
    evaluation, faults = recorded_evaluation(version)
    return {**version.as_json(aliases), "evaluation": evaluation, "faults": faults}


def _fault(evaluation: Mapping[str, Any]) -> str | None:
    try:
        _WholeEvaluation.model_validate(evaluation)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"has another shape ({'.'.join(str(part) for part in first['loc'])}: {first['msg'][:200]})"
    return None
