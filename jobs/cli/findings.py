"""Findings of `isnet doctor` and `isnet plan`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One answer. Level `error` makes the command exit with 1."""

    level: Literal["ok", "note", "warning", "error"]
    what: str
    remedy: str = ""


def refused(error: Exception) -> Finding:
    """A refusal as a finding: a sentence of ours has the remedy in its last part."""
    what, _, remedy = str(error).rpartition("; ")
    return Finding("error", what or remedy, remedy if what else "")


def sentence(finding: Finding) -> str:
    return f"{finding.what}; {finding.remedy}" if finding.remedy else finding.what
