"""Decides whether a candidate's share widens, stays or ends; pure.

The evidence is what both versions did to the same stream of requests: failures, NaN and latency. A candidate that
harms goes back at once; one that its gates do not pass never widens.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

STAGES = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0)
# Answers of a version that count, the newest ones.
WINDOW = 500


@dataclass(frozen=True)
class RolloutRules:
    """Bounds for a candidate under traffic."""

    answers: int = 50  # Of the candidate, before a share may widen
    errors: int = 3  # Failures that send it back at once, if its rate is above that of production, too
    error_rate: float = 0.02  # Failures of all answers
    latency_ratio: float = 2.0  # Its median time against that of production
    latency_ms: float = 20.0  # Differences below this are nobody's concern
    latency_answers: int = 20  # Of each version, before times are compared


@dataclass(frozen=True)
class Observed:
    """Answers and failures of one version lately."""

    answers: int = 0
    errors: int = 0  # Other than NaN; a user's mistake is none
    not_finite: int = 0
    milliseconds: tuple[float, ...] = ()

    @property
    def error_rate(self) -> float:
        """Share of failures, 0 to 1."""
        failures = self.errors + self.not_finite
        return failures / (self.answers + failures) if failures else 0.0


@dataclass(frozen=True)
class RolloutStep:
    """Decision on a candidate's share, and its reason."""

    action: Literal["hold", "widen", "back"]
    reason: str


def judge(
    rules: RolloutRules,
    production: Observed,
    candidate: Observed,
    *,
    gates_failed: Sequence[str] = (),
    has_verdicts: bool = True,
) -> RolloutStep:
    """Judges a candidate by its answers under its share.

    Args:
        rules: Bounds.
        production: What production did meanwhile.
        candidate: What the candidate did.
        gates_failed: Gates that refused the candidate at its last judgement.
        has_verdicts: False if no gate has judged it.
    """
    # What harms users, first.
    if candidate.not_finite:
        return RolloutStep("back", f"{candidate.not_finite} of its answers were NaN or infinite")
    if (
        candidate.errors >= rules.errors
        and candidate.error_rate > rules.error_rate
        and candidate.error_rate > 2 * production.error_rate
    ):
        of_production = f"production {production.error_rate:.1%}"
        return RolloutStep("back", f"{candidate.errors} failures, {candidate.error_rate:.1%} ({of_production})")
    if min(len(candidate.milliseconds), len(production.milliseconds)) >= rules.latency_answers:
        own, usual = _median(candidate.milliseconds), _median(production.milliseconds)
        if own > rules.latency_ratio * usual and own - usual > rules.latency_ms:
            return RolloutStep("back", f"median {own:.0f} ms against {usual:.0f} ms of production")
    # Then what is needed to go on.
    if candidate.answers < rules.answers:
        return RolloutStep("hold", f"{candidate.answers} answers of the {rules.answers} that a wider share needs")
    if not has_verdicts:
        return RolloutStep("hold", "no gate has judged it")
    if gates_failed:
        return RolloutStep("hold", f"gates refuse it: {', '.join(gates_failed)}")
    return RolloutStep("widen", f"{candidate.answers} answers, {candidate.error_rate:.1%} failures, its gates pass")


def next_share(share: float) -> float:
    """The next wider share; 1 stays 1."""
    return next((stage for stage in STAGES if stage > share + 1e-9), 1.0)


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[len(ordered) // 2]


class Observations:
    """Collects the newest answers and failures of a version."""

    def __init__(self) -> None:
        # Milliseconds; NaN stands for a failure, infinity for an answer that was not finite.
        self._events: deque[float] = deque(maxlen=WINDOW)

    def answered(self, milliseconds: float) -> None:
        """Adds an answer."""
        self._events.append(milliseconds)

    def failed(self, *, not_finite: bool) -> None:
        """Adds a failure."""
        self._events.append(math.inf if not_finite else math.nan)

    def clear(self) -> None:
        """Forgets everything, as a new share begins."""
        self._events.clear()

    def observed(self) -> Observed:
        """Numbers of the window."""
        times = tuple(event for event in self._events if math.isfinite(event))
        not_finite = sum(math.isinf(event) for event in self._events)
        return Observed(len(times), len(self._events) - len(times) - not_finite, not_finite, times)
