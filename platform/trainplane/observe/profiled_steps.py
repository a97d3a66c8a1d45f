"""Steps to profile, as a setting says them. Pure."""

from __future__ import annotations

import re

# A trace has some ten thousand events a step.
MOST_STEPS = 50


def steps_of(text: str) -> range:
    """Steps of "100..110", both ends included, counted from 1."""
    match = re.fullmatch(r"\s*(\d+)\s*\.\.\s*(\d+)\s*", text)
    steps = range(int(match[1]), int(match[2]) + 1) if match else range(0)
    if not steps or steps.start < 1 or len(steps) > MOST_STEPS:
        raise ValueError(
            f"{text!r} names no steps to profile; write 100..110, both ends included, at most {MOST_STEPS} steps"
        )
    return steps
