"""`plan --measure`: how long a run will take is told by steps of as many ranks, and by a validation."""

import os

import pytest
from small_run import SMALL

from jobs.config import load_run_config
from jobs.train import measure
from jobs.train.measure_rank import MeasuredSteps
from jobs.train.resources import RanksHere

MEASURED = MeasuredSteps(steps=5, step_s=2.0, validation_s=30.0, with_data=True)


def train_of(*overrides):
    return load_run_config("demo", ["train.steps=100", *overrides]).train


@pytest.mark.parametrize(
    ("overrides", "done", "seconds"),
    [
        (["train.validate_every=50"], 0, 200 + 2 * 30),
        # The last step is always validated.
        (["train.validate_every=40"], 0, 200 + 3 * 30),
        (["train.validate_every=40"], 80, 40 + 1 * 30),
        (["train.validate_every=500"], 0, 200 + 30),
        # An epoch has 10 steps.
        (["train.validate_every=2 epochs"], 0, 200 + 5 * 30),
        (["train.validate_every=60s"], 0, 200 * 1.5 + 30),
    ],
)
def test_the_time_is_that_of_the_steps_left_and_their_validations(overrides, done, seconds):
    assert measure.training_seconds(train_of(*overrides), MEASURED, done=done, steps_per_epoch=10) == seconds


def ranks(most, *, where="the cluster", gpu=False):
    return RanksHere([most], most, gpu, 64.0, 0.0, where)


def test_of_more_ranks_than_fit_those_that_fit_are_measured_with_unchanged_shares(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    config = load_run_config("demo", ["train.global_batch=24", "train.workers=8", "data.val_samples=100"])
    assert measure.ranks_that_fit(config.train, ranks(8)) == 4
    assert measure.ranks_that_fit(config.train.model_copy(update={"cpus_per_worker": 3.0}), ranks(8)) == 1
    assert measure.ranks_that_fit(config.train, ranks(2)) == 2
    # What was admitted on this machine fits.
    assert measure.ranks_that_fit(config.train, ranks(8, where="this machine")) == 8
    part = measure.part_of(config, here=3, ranks=8)
    assert (part.train.global_batch, part.train.workers, part.data.val_samples) == (9, 3, 38)


def test_a_rank_gets_threads_and_gpu_as_from_ray(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    train = train_of("train.cpus_per_worker=2.5")
    assert measure.rank_environment(train, number=1, gpu=True)["CUDA_VISIBLE_DEVICES"] == "6"
    assert measure.rank_environment(train, number=1, gpu=False)["OMP_NUM_THREADS"] == "2"
    assert (
        measure.rank_environment(train_of("train.cpus_per_worker=0.5"), number=0, gpu=False)["OMP_NUM_THREADS"] == "1"
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert measure.rank_environment(train, number=0, gpu=False)["OMP_NUM_THREADS"] == "3"


@pytest.mark.nightly
def test_two_ranks_are_measured_together_on_the_runs_data(isnet, photos):
    for name in ("mine", "held"):
        isnet("data", "pack", photos, name)
    planned = isnet("plan", "train", "demo", *SMALL, "train.workers=2", "--measure", "--json")
    assert planned.status == 0, planned.err
    rate = planned.json()["rate"]
    assert rate["source"].startswith("2 ranks timed here: ")
    assert "data included; a validation takes" in rate["source"]
    assert rate["pictures_per_s"] > 0


@pytest.mark.nightly
def test_a_rank_that_fails_is_reported_in_a_sentence(isnet, photos, monkeypatch):
    for name in ("mine", "held"):
        isnet("data", "pack", photos, name)
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    monkeypatch.setattr("sys.executable", "/bin/false")
    planned = isnet("plan", "train", "demo", *SMALL, "train.workers=2", "--measure")
    assert planned.status == 2
    assert "--measure could not time the steps: a rank failed (status 1)" in planned.err
