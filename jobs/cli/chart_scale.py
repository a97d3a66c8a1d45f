"""Axis of a chart with round numbers."""

from __future__ import annotations

import math


def scale_of(low: float, high: float) -> tuple[float, float, float]:
    """Ends and step of an axis with round numbers."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def digits_of(step: float) -> int:
    """Digits behind the point that numbers of an axis need."""
    return max(0, -math.floor(math.log10(step) + 1e-9)) + (1 if f"{step:e}"[:3] == "2.5" else 0)
