"""PURE: how a search went, as plain values: the trials, the best one, the Pareto front.

Not covered: drawing it (`charts`), which setting mattered how much (`importance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainplane.search.config import Objective
from trainplane.search.policy.state import SearchState, TrialState, score

Scores = tuple[float, ...]


@dataclass(frozen=True)
class Leaderboard:
    """Trials in the order of a leaderboard, and those that no other one beats in everything."""

    ranked: tuple[TrialState, ...]
    front: tuple[TrialState, ...]
    best: TrialState | None


def leaderboard(state: SearchState) -> Leaderboard:
    """Who is where. Trials without a finite value of every objective are last, in the order of their numbers."""
    goals = state.goals
    valued = [(trial, found) for trial in state.trials.values() if (found := trial_scores(trial, goals)) is not None]
    others = [trial for trial in state.trials.values() if trial_scores(trial, goals) is None]
    front = [trial for trial, found in valued if not any(dominates(other, found) for _, other in valued)]
    if len(goals) == 1:
        # Of trials that were stopped early, those that came further were better than those that did not.
        ranked = sorted(valued, key=lambda pair: (-pair[0].step, -pair[1][0], pair[0].number))
        best = ranked[0][0] if ranked else None
        front = [best] if best else []
    else:
        best = knee(valued)
        inside = {trial.number for trial in front}
        ranked = sorted(valued, key=lambda pair: (pair[0].number not in inside, -pair[1][0], pair[0].number))
    order = [trial for trial, _ in ranked] + sorted(others, key=lambda trial: trial.number)
    front.sort(key=lambda trial: [-value for value in trial_scores(trial, goals) or ()])
    return Leaderboard(tuple(order), tuple(front), best)


def trial_scores(trial: TrialState, goals: Sequence[Objective]) -> Scores | None:
    """All objectives as numbers to maximise; None where one is missing or the trial did not hold."""
    found = [score(trial.values, goal) for goal in goals]
    if trial.status in ("nan", "failed") or None in found:
        return None
    return tuple(value for value in found if value is not None)


def dominates(one: Scores, other: Scores) -> bool:
    """At least as good in everything and better in something."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def knee(valued: Sequence[tuple[TrialState, Scores]]) -> TrialState | None:
    """Of the front, the trial nearest to the best of everything, each objective scaled to its range on the front."""
    front = [(trial, found) for trial, found in valued if not any(dominates(other, found) for _, other in valued)]
    if not front:
        return None
    columns = list(zip(*(found for _, found in front), strict=True))

    def distance(found: Scores) -> float:
        parts = [
            (max(column) - value) / (max(column) - min(column)) if max(column) > min(column) else 0.0
            for value, column in zip(found, columns, strict=True)
        ]
        return sum(part * part for part in parts)

    return min(front, key=lambda pair: (distance(pair[1]), pair[0].number))[0]


def trial_row(trial: TrialState) -> dict[str, Any]:
    """One trial for a report."""
    return {
        "number": trial.number,
        "settings": trial.settings,
        "run_id": trial.run_id,
        "status": trial.status,
        "step": trial.step,
        "metrics": trial.values,
        "checkpoint": trial.checkpoint,
        "seconds": round(trial.seconds, 3),
        "error": trial.error,
        **({"takeovers": trial.lineage} if trial.lineage else {}),
    }


def leaderboard_table(state: SearchState, *, limit: int | None = None) -> str:
    """The leaderboard as text, the best first."""
    goals, found = state.goals, leaderboard(state)
    names = list(dict.fromkeys(name for trial in state.trials.values() for name in trial.settings))
    head = [f"{'trial':<6}", f"{'status':<9}", f"{'step':>7}", *(f"{goal.metric:>16}" for goal in goals)]
    lines = ["  ".join([*head, *(f"{name:>18}" for name in names), "run"])]
    front = {trial.number for trial in found.front} if len(goals) > 1 else set()
    for trial in found.ranked[:limit]:
        values = [f"{format_value(trial.values.get(goal.metric)):>16}" for goal in goals]
        cells = [f"{format_value(trial.settings.get(name)):>18}" for name in names]
        mark = "*" if trial.number in front else ""
        first = [f"{trial.number}{mark:<1}".ljust(6), f"{trial.status:<9}", f"{trial.step:>7}"]
        lines.append("  ".join([*first, *values, *cells, trial.run_id]))
    if limit is not None and len(found.ranked) > limit:
        lines.append(f"… {len(found.ranked) - limit} more")
    if front:
        lines.append("* on the Pareto front: no other trial is better in everything")
    return "\n".join(lines)


def format_value(value: Any) -> str:
    """A value in a few characters; nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if 1 <= abs(value) < 1000 else f"{value:.4g}"
    return str(value)
