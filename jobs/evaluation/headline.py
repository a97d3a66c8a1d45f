"""Sentence that names the best model of a report.

Pure: no I/O. Models are ranked by their mean PSNR over all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trainplane.registry.significance import LEVEL, MIN_GROUPS, smallest_p

Evaluations = Mapping[str, Mapping[str, Any]]


def ranking(evaluations: Evaluations) -> list[str]:
    """Labels, the best first; equal ones in their order."""
    return sorted(evaluations, key=lambda label: -_psnr(evaluations[label]))


def _psnr(evaluation: Mapping[str, Any]) -> float:
    value = evaluation["bins"].get("all", {}).get("psnr")
    return value if isinstance(value, (int, float)) and not math.isnan(value) else -math.inf


def headline(evaluations: Evaluations, lead: Mapping[str, Any] | None) -> str:
    """Formats the sentence that opens a report.

    Args:
        evaluations: by label.
        lead: comparison of the best model with the second, as `evaluation.compare` gives it for PSNR over all pairs;
            None with one model.
    """
    best, *others = ranking(evaluations)
    evaluation = evaluations[best]
    means, pictures = evaluation["bins"]["all"], evaluation["pictures"]
    on = f"{_count(pictures, 'picture')} with {_count(means['n'], 'hole')}"
    if not others or lead is None:
        ends = (evaluation["intervals"].get("all") or {}).get("psnr")
        sure = f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
        few = f"; {_too_few(pictures)}" if not ends else ""
        return f"{best} reaches {means['psnr']:.2f} dB PSNR{sure} on {on}{few}."
    second, gain, p = others[0], lead["difference"], lead["p_value"]
    if gain == 0:
        return f"{best} and {second} are equal: {means['psnr']:.2f} dB PSNR on {on}."
    if lead["interval"] is None:
        least = min(1.0, 2 * smallest_p(lead["num_groups"]))
        return (
            f"{best} is ahead of {second} by {gain:.2f} dB PSNR on {on}: too few to tell from chance "
            f"(p = {p:.2g}; {_count(pictures, 'picture')} cannot say less than {least:.2g})."
        )
    ends = f"95 % interval {lead['interval'][0]:.2f} to {lead['interval'][1]:.2f}, {_p_text(p)}"
    if p < 1 - LEVEL:
        return f"{best} is the best with {means['psnr']:.2f} dB PSNR, {gain:.2f} dB above {second} ({ends}), on {on}."
    return f"{best} is ahead of {second} by {gain:.2f} dB PSNR on {on}, which may be chance ({ends})."


def _too_few(pictures: int) -> str:
    return f"fewer than {MIN_GROUPS} pictures have no 95 % interval" if pictures < MIN_GROUPS else "without an interval"


def _p_text(p: float) -> str:
    return f"p = {p:.2g}" if p >= 0.001 else "p < 0.001"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
