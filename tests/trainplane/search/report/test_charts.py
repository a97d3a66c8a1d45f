"""Pictures of searches of every kind: something is drawn, the best in red, whatever trials came to."""

import numpy as np
import pytest
from search_world import cluster, driver, every_fourth_is_nan, plan, rising

from trainplane.search.config import Objective
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report import charts
from trainplane.search.report.summary import leaderboard
from trainplane.testing.simulated_search import simulate

RED = np.array([0xC8, 0x1E, 0x28])


def has_red(pixels):
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    return bool((np.abs(pixels.astype(int) - RED).sum(axis=2) < 12).any())


@pytest.mark.parametrize("value", [rising, every_fourth_is_nan])
def test_curves_and_coordinates_show_the_best_whatever_others_came_to(value):
    made = plan(
        asha={"first": 3, "eta": 3},
        space={"x": {"log_uniform": [0.01, 1]}, "gan": {"choice": ["hinge", "lsgan"]}, "one": {"choice": [7]}},
    )
    done = driver(made)
    simulate(done, cluster(value))
    found = leaderboard(done.state)
    assert has_red(charts.learning_curves(done.state, found))
    assert has_red(charts.parallel_coordinates(done.state, found, made.space.dimensions))


def test_a_search_of_one_trial_is_drawn():
    state = SearchState(
        (Objective(metric="q", mode="max"),), trials={0: TrialState(0, {}, status="finished", values={"q": 1.0})}
    )
    charts.learning_curves(state, leaderboard(state))
    charts.parallel_coordinates(state, leaderboard(state), {})


@pytest.mark.parametrize("count", [2, 3])
def test_a_front_is_drawn_with_its_knee(count):
    goals = tuple(Objective(metric=name, mode="max") for name in "abc"[:count])
    places = [(1.0, 5.0, 1.0), (3.0, 4.0, 1.0), (5.0, 1.0, 1.0), (1.0, 1.0, 0.5), (float("nan"), 0.0, 0.0)]
    trials = {
        number: TrialState(number, {"m.x": number}, status="finished", values=dict(zip("abc", place, strict=True)))
        for number, place in enumerate(places)
    }
    state = SearchState(goals, trials=trials)
    assert has_red(charts.pareto_front(state, leaderboard(state)))


def test_importances_are_as_high_as_they_are_many():
    few, many = (charts.importances({f"s{n}": 1 / count for n in range(count)}, "q") for count in (1, 12))
    assert few.shape[0] < many.shape[0]
    assert few.shape[1] == many.shape[1]


def test_importances_of_few_trials_look_doubtful():
    sure, doubtful = (charts.importances({"a": 0.7, "b": 0.3}, "q", doubt=text) for text in (None, "too few to say"))
    assert doubtful.shape[0] > sure.shape[0]
    assert doubtful.mean() > sure.mean()
