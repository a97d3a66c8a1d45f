"""Findings of `isnet doctor` and `isnet plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainplane.errors import split_remedy


@dataclass(frozen=True)
class Finding:
    """One result of a check."""

    level: Literal["ok", "note", "warning", "error"]  # `error` makes the command fail
    what: str  # the result, in a sentence
    remedy: str = ""  # advice; empty if nothing is to be done

    @classmethod
    def from_error(cls, error: Exception) -> Finding:
        """Turns a refusal into a finding."""
        return cls("error", *split_remedy(str(error)))

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}" if self.remedy else self.what
