"""Reads records from a version's tags, and finds faulty ones.

Everybody who may write to MLflow may edit tags, and a process that was killed leaves them half written. So a tag is
checked before it is used: one that is no JSON, of another shape, or without its digest gives a sentence and no value.
Gates believe no number of a tag in any case (`measurements`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

# Of all tags of ours.
PREFIX = "trainplane."

_Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]


class _Lenient(BaseModel):
    """Object whose other fields are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Evaluation(_Lenient):
    """Parts of an evaluation that the platform reads."""

    model: str = ""
    dataset_digest: str | None = None
    masks_digest: str | None = None
    definition: str | None = None
    bins: dict[str, dict[str, _Number | None]]
    intervals: dict[str, dict[str, Annotated[list[_Number], Field(min_length=2, max_length=2)] | None] | None] = {}
    cost: dict[str, _Number | None] = {}


class _Verdict(_Lenient):
    """Parts of a verdict that the platform reads."""

    gate: str
    passed: bool
    evidence: str


_EVALUATION: TypeAdapter[Any] = TypeAdapter(_Evaluation)
_VERDICTS: TypeAdapter[Any] = TypeAdapter(list[_Verdict])


def read_evaluation(tags: Mapping[str, str]) -> tuple[dict[str, Any] | None, str | None]:
    """Returns the recorded evaluation, and a fault of its tags."""
    text, digest = tags.get(PREFIX + "evaluation"), tags.get(PREFIX + "evaluation_digest")
    if text is None:
        return None, None
    # The digest is written last: if it does not fit, a writer was killed or the tag was edited.
    if hashlib.sha256(text.encode(errors="replace")).hexdigest() != digest:
        return None, f"tag {PREFIX}evaluation has not the digest of {PREFIX}evaluation_digest, so it does not count"
    return _read(_EVALUATION, "evaluation", text)


def read_verdicts(tags: Mapping[str, str]) -> tuple[list[dict[str, Any]], str | None]:
    """Returns the recorded verdicts, and a fault of their tag."""
    text = tags.get(PREFIX + "gates")
    if text is None:
        return [], None
    verdicts, fault = _read(_VERDICTS, "gates", text)
    return verdicts or [], fault


def _read(kind: TypeAdapter[Any], name: str, text: str) -> tuple[Any, str | None]:
    """Parses a tag's JSON: its value or a fault."""
    try:
        kind.validate_json(text.encode(errors="replace"))
    except ValidationError as error:
        return None, f"tag {PREFIX}{name} {_reason(error)}, so it does not count"
    return json.loads(text), None


def _reason(error: ValidationError) -> str:
    """First reason why a tag's JSON is not as needed."""
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return "is no JSON"
    place = ".".join(str(part) for part in first["loc"])
    return f"has another shape ({place + ': ' if place else ''}{first['msg'][:200]})"
