"""Curves of a search for its page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trainplane.search.policy.state import SearchState, score
from trainplane.search.report.summary import Leaderboard

# MLflow draws each in a chart of its own.
MAX_TRIALS = 9
Curves = dict[str, Mapping[int, float]]
"""Values by step, by name of curve."""


def search_curves(state: SearchState, board: Leaderboard) -> Curves:
    """Best value after each trial, and learning curves.

    Learning curves are those of the best trials, by the first objective.
    """
    curves: Curves = {}
    for goal in state.goals:
        curves[f"best so far by trial/{goal.metric.replace('/', ' ')}"] = best_so_far(state, goal.metric)
    metric = state.goals[0].metric
    for trial in board.ranked[:MAX_TRIALS]:
        points = {step: values[metric] for step, values in sorted(trial.curve.items()) if metric in values}
        curves[f"learning curves of {metric.replace('/', ' ')}/trial {trial.number:04d}"] = points
    return {name: points for name, points in curves.items() if points}


def best_so_far(state: SearchState, metric: str) -> dict[int, float]:
    """Best value of the first n trials, by n."""
    goal = next(goal for goal in state.goals if goal.metric == metric)
    best, points = -math.inf, dict[int, float]()
    for count, number in enumerate(sorted(state.trials), start=1):
        trial = state.trials[number]
        value = None if trial.status in ("nan", "failed") else score(trial.values, goal)
        best = max(best, value if value is not None else -math.inf)
        if math.isfinite(best):
            points[count] = best if goal.mode == "max" else -best
    return points
