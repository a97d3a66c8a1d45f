"""A search asks for the same trials every time, and refuses what cannot be explored."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.config import build
from trainplane.errors import RunFailed, UserError
from trainplane.search.admission import Need, admit
from trainplane.search.launch import TrialResult, best_of
from trainplane.search.space import Objective, SearchFile, search_key, trial_settings

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


def test_trials_are_the_same_every_time_and_lie_in_the_space():
    trials = trial_settings(made().search)
    assert trials == trial_settings(made().search)
    assert len({str(trial) for trial in trials}) == 8
    for trial in trials:
        assert 10 <= trial["loss.style"] <= 400
        assert 0.5 <= trial["loss.l1"] <= 2
        assert trial["model.blocks"] in (1, 2, 3, 4)
        assert trial["loss.gan"] in ("hinge", "lsgan")


def test_more_trials_begin_with_the_same_ones():
    assert trial_settings(made(trials=16).search)[:8] == trial_settings(made().search)


def test_a_new_dimension_does_not_move_the_others():
    wider = made(space={**FILE["search"]["space"], "train.lr_g": {"log_uniform": [1e-5, 1e-3]}})
    for before, after in zip(trial_settings(made().search), trial_settings(wider.search), strict=True):
        assert before.items() <= after.items()


def test_another_seed_is_another_search():
    assert trial_settings(made(seed=1).search) != trial_settings(made().search)
    assert search_key(made(seed=1), {}) != search_key(made(), {})


def test_a_grid_has_every_combination_once():
    grid = made(algorithm="grid", space={"a.x": {"choice": [1, 2]}, "a.y": {"choice": ["u", "v", "w"]}})
    assert len({(t["a.x"], t["a.y"]) for t in trial_settings(grid.search)}) == 6


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ({"objective": {"metric": "m"}}, ["search.objective.mode is not set"]),
        ({"space": {}}, ["search.space"]),
        ({"space": {"a": {"uniform": [2, 1]}}}, ["is empty"]),
        ({"space": {"a": {"log_uniform": [0, 1]}}}, ["above 0"]),
        ({"space": {"a": {}}}, ["no values"]),
        ({"space": {"a": {"choice": [1], "uniform": [0, 1]}}}, ["choice and uniform"]),
        ({"algorithm": "grid"}, ["a grid needs choices"]),
    ],
)
def test_what_cannot_be_explored_is_refused(search, words):
    with pytest.raises(UserError) as refusal:
        made(**search)
    for word in words:
        assert word in str(refusal.value)


@given(
    st.integers(1, 8),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 1.0]),
    st.integers(1, 64),
    st.integers(0, 16),
    st.integers(1, 50),
    st.one_of(st.none(), st.integers(1, 50)),
)
def test_whatever_is_admitted_fits_the_cluster(workers, cpus_each, gpus_each, cpus, gpus, trials, wanted):
    need = Need(workers, cpus_each, gpus_each)
    if need.cpus > cpus or need.gpus > gpus:
        with pytest.raises(UserError, match=r"set train\."):
            admit(need, cpus=cpus, gpus=gpus, trials=trials, wanted=wanted)
        return
    at_once = admit(need, cpus=cpus, gpus=gpus, trials=trials, wanted=wanted)
    assert 1 <= at_once <= min(trials, wanted or trials)
    assert at_once * need.cpus <= cpus + 1e-6
    assert at_once * need.gpus <= gpus


def test_the_refusal_shows_the_arithmetic():
    with pytest.raises(
        UserError, match=r"2 workers × 1 CPUs \+ 0.01 for the trial itself = 2.01, and the cluster has 2"
    ):
        admit(Need(2, 1.0), cpus=2, gpus=0, trials=4, wanted=None)


def results(*values):
    return [TrialResult(i, {}, f"r{i}", "finished", metrics={"val/psnr": v}) for i, v in enumerate(values)]


def test_nan_is_never_the_best():
    best = best_of(results(math.nan, 20.0, math.inf, 21.0), Objective(metric="val/psnr", mode="max"))
    assert best.number == 3
    assert best_of(results(math.nan, 20.0, 21.0), Objective(metric="val/psnr", mode="min")).number == 1


def test_a_metric_nobody_reported_is_named_with_what_there_is():
    with pytest.raises(RunFailed, match="no trial reported a finite val/ssim; reported were: val/psnr"):
        best_of(results(1.0), Objective(metric="val/ssim", mode="max"))
