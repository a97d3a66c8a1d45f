"""Kinds of holes and how often each is drawn: `data.masks`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field

Weight = Annotated[float, Field(ge=0)]
Masks = str | tuple[str, ...] | dict[str, Weight]
"""One kind; several of equal weight; or kind -> weight."""


def shares(masks: Masks) -> dict[str, float]:
    """Probability of each kind, in the order of their names."""
    if isinstance(masks, str):
        return {masks: 1.0}
    weights = masks if isinstance(masks, Mapping) else dict.fromkeys(masks, 1.0)
    total = sum(weights.values())
    if not total > 0:
        raise ValueError(
            f"data.masks={dict(weights)} has no weight above 0, so there is nothing to draw; "
            "write data.masks={irregular: 0.7, box: 0.3}, or one kind"
        )
    # Sorted: the order in which they were written must not decide which is drawn.
    return {kind: weight / total for kind, weight in sorted(weights.items()) if weight > 0}


def main_kind(masks: Masks) -> str:
    """Kind of the largest weight; of equal ones the first."""
    weights = shares(masks)
    return max(weights, key=lambda kind: weights[kind])
