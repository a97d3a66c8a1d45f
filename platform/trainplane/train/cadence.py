"""PURE: how often something is done, as people write it: `500` steps, `"90s"`, `"5min"`, `"2h"`, `"1 epoch"`.

Steps and epochs are functions of the step alone, so every rank and every resumed run does the same. Seconds are the
clock of rank 0, which tells the others (`agenda`); what happens then happens at other steps in every run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|seconds?|min|minutes?|h|hours?|steps?|epochs?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Cadence:
    """Every `amount` steps or seconds."""

    amount: float
    unit: Literal["steps", "seconds", "epochs"]

    @staticmethod
    def of(text: int | str) -> Cadence:
        """Read what a user wrote; `ValueError` says what can be written."""
        if isinstance(text, int):
            amount, unit = float(text), "steps"
        else:
            found = _FORM.fullmatch(text.strip().lower())
            if found is None:
                raise ValueError(f'{text!r} is no cadence; write 500 (steps), "90s", "5min", "2h" or "1 epoch"')
            amount, unit = float(found[1]), found[2]
        if unit.startswith("epoch"):
            cadence = Cadence(amount, "epochs")
        elif unit.startswith("step"):
            cadence = Cadence(amount, "steps")
        else:
            cadence = Cadence(amount * _SECONDS[unit[0]], "seconds")
        if cadence.amount <= 0 or (cadence.unit == "steps" and cadence.amount % 1):
            raise ValueError(f"{text!r} is no cadence; need a whole number of steps, or time or epochs above 0")
        return cadence

    def steps(self, steps_per_epoch: int) -> int | None:
        """The same in steps, at least one; None where the clock decides."""
        if self.unit == "seconds":
            return None
        return max(1, round(self.amount * (steps_per_epoch if self.unit == "epochs" else 1)))
