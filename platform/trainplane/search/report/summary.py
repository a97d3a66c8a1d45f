"""Results of a search: leaderboard, best trial, Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainplane.search.config import Objective
from trainplane.search.policy.state import SearchState, TrialState, score

Scores = tuple[float, ...]


@dataclass(frozen=True)
class Leaderboard:
    """Trials in the order of their results."""

    ranked: tuple[TrialState, ...]  # All trials, the best first
    front: tuple[TrialState, ...]  # Pareto front: trials that no other trial dominates
    best: TrialState | None  # The best trial; None if no trial has finite values


def leaderboard(state: SearchState) -> Leaderboard:
    """Ranks all trials."""
    # Trials without a finite value of every objective come last, in the order of their numbers.
    goals = state.goals
    scored = [(trial, scores) for trial in state.trials.values() if (scores := trial_scores(trial, goals)) is not None]
    unscored = [trial for trial in state.trials.values() if trial_scores(trial, goals) is None]
    front = [trial for trial, _ in _front(scored)]
    if len(goals) == 1:
        # Of trials that were stopped early, those that came further were better than those that did not.
        ranked = sorted(scored, key=lambda pair: (-pair[0].step, -pair[1][0], pair[0].number))
        best = ranked[0][0] if ranked else None
        front = [best] if best else []
    else:
        # The front first, each part by the first objective.
        best = knee(scored)
        inside = {trial.number for trial in front}
        ranked = sorted(scored, key=lambda pair: (pair[0].number not in inside, -pair[1][0], pair[0].number))
    order = [trial for trial, _ in ranked] + sorted(unscored, key=lambda trial: trial.number)
    front.sort(key=lambda trial: [-value for value in trial_scores(trial, goals) or ()])
    return Leaderboard(tuple(order), tuple(front), best)


def trial_scores(trial: TrialState, goals: Sequence[Objective]) -> Scores | None:
    """All objectives to maximise; None if missing, failed or NaN."""
    scores = [score(trial.values, goal) for goal in goals]
    if trial.status in ("nan", "failed") or None in scores:
        return None
    return tuple(value for value in scores if value is not None)


def dominates(first: Scores, second: Scores) -> bool:
    """Compares scores: nowhere worse, and better in one objective."""
    # Equal scores dominate neither way.
    return first != second and all(a >= b for a, b in zip(first, second, strict=True))


def _front(scored: Sequence[tuple[TrialState, Scores]]) -> list[tuple[TrialState, Scores]]:
    """Trials that no other one dominates."""
    return [pair for pair in scored if not any(dominates(scores, pair[1]) for _, scores in scored)]


def knee(scored: Sequence[tuple[TrialState, Scores]]) -> TrialState | None:
    """Trial of the front nearest to the best everywhere."""
    # Each objective is scaled to its range on the front.
    front = _front(scored)
    if not front:
        return None
    columns = list(zip(*(scores for _, scores in front), strict=True))

    def distance(scores: Scores) -> float:
        # Distance to the best of each objective, 0 to 1.
        parts = [
            (max(column) - value) / (max(column) - min(column)) if max(column) > min(column) else 0.0
            for value, column in zip(scores, columns, strict=True)
        ]
        return sum(part * part for part in parts)

    return min(front, key=lambda pair: (distance(pair[1]), pair[0].number))[0]


def trial_row(trial: TrialState) -> dict[str, Any]:
    """One trial for JSON output."""
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
    """Leaderboard as text, the best trial first."""
    goals, board = state.goals, leaderboard(state)
    # Columns of all settings that any trial has, in the order of appearance.
    names = list(dict.fromkeys(name for trial in state.trials.values() for name in trial.settings))
    head = [f"{'trial':<6}", f"{'status':<9}", f"{'step':>7}", *(f"{goal.metric:>16}" for goal in goals)]
    lines = ["  ".join([*head, *(f"{name:>18}" for name in names), "run"])]
    # With one objective the front is the best trial, which stands first anyway.
    front = {trial.number for trial in board.front} if len(goals) > 1 else set()
    for trial in board.ranked[:limit]:
        values = [f"{format_value(trial.values.get(goal.metric)):>16}" for goal in goals]
        cells = [f"{format_value(trial.settings.get(name)):>18}" for name in names]
        mark = "*" if trial.number in front else ""
        first = [f"{trial.number}{mark:<1}".ljust(6), f"{trial.status:<9}", f"{trial.step:>7}"]
        lines.append("  ".join([*first, *values, *cells, trial.run_id]))
    if limit is not None and len(board.ranked) > limit:
        lines.append(f"… {len(board.ranked) - limit} more")
    if front:
        lines.append("* on the Pareto front: no other trial is better in everything")
    return "\n".join(lines)


def format_settings(settings: Mapping[str, Any], separator: str = ", ") -> str:
    """Formats settings by the last parts of their names."""
    return separator.join(f"{name.rpartition('.')[2]}={format_value(value)}" for name, value in settings.items())


def format_value(value: Any) -> str:
    """Formats a value in few characters; None as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        # Four digits behind the point, or four significant digits.
        return f"{value:.4f}" if 1 <= abs(value) < 1000 else f"{value:.4g}"
    return str(value)
