"""Curves of a search on its page: what was best after each trial, and how the best ones learnt."""

from __future__ import annotations

import math

from trainplane.search.config import Objective
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report.curves import best_so_far, search_curves
from trainplane.search.report.importance import doubt
from trainplane.search.report.summary import leaderboard


def searched(values: list[float], mode: str = "max") -> SearchState:
    trials = {
        number: TrialState(
            number,
            {},
            status="nan" if math.isnan(value) else "finished",
            step=10,
            values={"val/psnr": value},
            curve={5: {"val/psnr": value / 2}, 10: {"val/psnr": value}},
        )
        for number, value in enumerate(values)
    }
    return SearchState((Objective(metric="val/psnr", mode=mode),), trials=trials)


def test_the_best_so_far_never_falls_and_passes_over_failures() -> None:
    state = searched([math.nan, 2.0, 1.0, 3.0])
    assert best_so_far(state, "val/psnr") == {2: 2.0, 3: 2.0, 4: 3.0}


def test_the_best_so_far_of_a_loss_never_rises() -> None:
    assert best_so_far(searched([2.0, 3.0, 1.0], mode="min"), "val/psnr") == {1: 2.0, 2: 2.0, 3: 1.0}


def test_a_page_gets_the_curves_of_the_best_trials_only() -> None:
    state = searched([float(number) for number in range(20)])
    curves = search_curves(state, leaderboard(state))
    shown = [name for name in curves if name.startswith("learning curves")]
    assert shown[0] == "learning curves of val psnr/trial 0019"
    assert len(shown) == 9
    assert curves[shown[0]] == {5: 9.5, 10: 19.0}


def test_importance_of_few_trials_is_in_doubt() -> None:
    assert "4 trials are too few" in str(doubt(4, 3))
    assert doubt(30, 3) is None
