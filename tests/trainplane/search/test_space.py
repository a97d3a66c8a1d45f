"""A search asks for the same trials every time, and refuses what cannot be explored."""

import math

import pytest

from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.search.config import Objective, SearchFile
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report.summary import leaderboard
from trainplane.search.space import Space, search_key

FILE = {
    "name": "s",
    "base": "b",
    "search": {
        "objective": {"metric": "val/psnr", "mode": "max"},
        "trials": 8,
        "space": {
            "loss.style": {"log_uniform": [10, 400]},
            "loss.l1": {"uniform": [0.5, 2]},
            "model.blocks": {"integers": [1, 4]},
            "loss.gan": {"choice": ["hinge", "lsgan"]},
        },
    },
}


def made(**search):
    return build(SearchFile, {**FILE, "search": {**FILE["search"], **search}})


def drawn(file, base=None):
    """The settings of its trials, as far as they follow from numbers alone."""
    space = Space.of(file.search, base or {})
    if file.search.algorithm == "grid":
        return space.grid()
    return [space.random(number) for number in range(file.search.trials)]


def test_trials_are_the_same_every_time_and_lie_in_the_space():
    trials = drawn(made())
    assert trials == drawn(made())
    assert len({str(trial) for trial in trials}) == 8
    for trial in trials:
        assert 10 <= trial["loss.style"] <= 400
        assert 0.5 <= trial["loss.l1"] <= 2
        assert trial["model.blocks"] in (1, 2, 3, 4)
        assert trial["loss.gan"] in ("hinge", "lsgan")


def test_every_setting_varies_from_trial_to_trial_whatever_its_name():
    names = [f"section.name_{number}" for number in range(20)]
    trials = drawn(made(space={name: {"uniform": [0, 1]} for name in names}))
    for name in names:
        assert len({trial[name] for trial in trials}) == len(trials), name


def test_more_trials_begin_with_the_same_ones():
    assert drawn(made(trials=16))[:8] == drawn(made())


def test_a_new_dimension_does_not_move_the_others():
    wider = made(space={**FILE["search"]["space"], "train.lr_g": {"log_uniform": [1e-5, 1e-3]}})
    for before, after in zip(drawn(made()), drawn(wider), strict=True):
        assert before.items() <= after.items()


def test_another_seed_is_another_search():
    assert drawn(made(seed=1)) != drawn(made())
    assert search_key(made(seed=1), {}) != search_key(made(), {})


def test_another_limit_is_the_same_search():
    assert search_key(made(trials=99, budget={"steps": 9}, register_as="m"), {}) == search_key(made(), {})


def test_a_grid_has_every_combination_once():
    grid = made(algorithm="grid", space={"a.x": {"choice": [1, 2]}, "a.y": {"choice": ["u", "v", "w"]}})
    assert len({(t["a.x"], t["a.y"]) for t in drawn(grid)}) == 6


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"objective": {"metric": "m"}}, ["search.objective.mode is not set"]),
        ({"objective": None}, ["no objective is given"]),
        ({"objectives": [{"metric": "m", "mode": "max"}]}, ["both search.objective and search.objectives"]),
        ({"objective": None, "objectives": [{"metric": "m"}]}, ["mode is not set"]),
        ({"algorithm": "pbt", "asha": {}}, ["leave search.asha out"]),
        ({"algorithm": "random", "warm_start": "s"}, ["for algorithm: tpe"]),
        ({"budget": {"steps": 0}}, ["search.budget.steps=0"]),
        ({"space": {}}, ["search.space"]),
        ({"space": {"a": {"uniform": [2, 1]}}}, ["is empty"]),
        ({"space": {"a": {"log_uniform": [0, 1]}}}, ["above 0"]),
        ({"space": {"a": {}}}, ["no values"]),
        ({"space": {"a": {"choice": [1], "uniform": [0, 1]}}}, ["choice and uniform"]),
        ({"algorithm": "grid"}, ["a grid needs choices"]),
        # What numpy or torch cannot take is no traceback from inside them.
        ({"space": {"a": {"uniform": [-1e308, 1e308]}}}, ["too wide"]),
        ({"space": {"a": {"integers": [0, 10**23]}}}, ["too wide"]),
        ({"space": {"a": {"integers": [-(10**23), 0]}}}, ["too wide"]),
        ({"seed": 2**64}, ["search.seed=18446744073709551616"]),
        ({"algorithm": "tpe", "warm_start": ""}, ["search.warm_start=''"]),
        ({"algorithm": "tpe", "warm_start": "../other"}, ["search.warm_start='../other'"]),
    ],
)
def test_what_cannot_be_explored_is_refused(search, words):
    with pytest.raises(UserError) as refusal:
        made(**search)
    for word in words:
        assert word in str(refusal.value)


def state_of(*values, mode="max"):
    objective = Objective(metric="val/psnr", mode=mode)
    trials = {
        n: TrialState(n, {}, status="finished" if math.isfinite(v) else "nan", values={"val/psnr": v})
        for n, v in enumerate(values)
    }
    return SearchState((objective,), trials=trials)


def test_nan_is_never_the_best():
    assert leaderboard(state_of(math.nan, 20.0, math.inf, 21.0)).best.number == 3
    assert leaderboard(state_of(math.nan, 20.0, 21.0, mode="min")).best.number == 1
    assert leaderboard(state_of(math.nan, -math.inf)).best is None


def test_the_front_has_what_nothing_beats_and_its_knee_is_the_best():
    goals = (Objective(metric="q", mode="max"), Objective(metric="m", mode="min"))
    points = [(1, 1), (2, 2), (5, 3), (6, 9), (4, 5), (6, 10), (math.nan, 0)]
    trials = {n: TrialState(n, {}, status="finished", values={"q": q, "m": m}) for n, (q, m) in enumerate(points)}
    found = leaderboard(SearchState(goals, trials=trials))
    assert {trial.number for trial in found.front} == {0, 1, 2, 3}
    assert found.best.number == 2
    assert found.ranked[-1].number == 6


def test_conditional_settings_are_there_only_when_their_condition_holds():
    space = {
        "loss.gan": {"choice": ["hinge", "lsgan"]},
        "loss.adversarial": {"uniform": [0.1, 1], "when": "gan == 'hinge'"},
    }
    trials = drawn(made(space=space, trials=40))
    assert {("loss.adversarial" in t) == (t["loss.gan"] == "hinge") for t in trials} == {True}
    grid = {**space, "loss.adversarial": {"choice": [1, 2, 3], "when": "gan == 'hinge'"}}
    assert len(drawn(made(space=grid, algorithm="grid"))) == 4
    with pytest.raises(UserError, match="is explored below it"):
        drawn(made(space=dict(reversed(space.items()))))


def test_every_draw_meets_the_constraints_and_contradictions_are_refused():
    space = {"t.g": {"log_uniform": [1e-5, 1e-2]}, "t.d": {"log_uniform": [1e-5, 1e-2]}}
    for trial in drawn(made(space=space, constraints=["d <= g", "d >= 0.1 * g"], trials=60)):
        assert 0.1 * trial["t.g"] <= trial["t.d"] <= trial["t.g"]
    with pytest.raises(UserError, match="contradict each other"):
        drawn(made(space=space, constraints=["d < g", "d > g"]))
    with pytest.raises(UserError, match="all 2 combinations break"):
        drawn(made(space={"a.x": {"choice": [1, 2]}}, constraints=["x > 2"]))
    # Conditions may name what the base sets.
    assert (
        drawn(made(space={"a.x": {"choice": [1, 2]}}, constraints=["x <= limit"]), {"a.limit": 1}) == [{"a.x": 1}] * 8
    )
