"""A run ends before its last step when its time is over, or when a metric no longer gets better; it saves first."""

import noise_datasets
import pytest
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.ending import Ending
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


def config(**train):
    values = {"steps": 12, "global_batch": 4, "checkpoint_every": 3, "validate_every": 2, "log_every": 2, **train}
    return build(TinyConfig, {"name": "tiny", "data": {"train": "t", "val": "v"}, "train": values})


def job(datasets, folder, **train):
    settings = config(**train)
    return TrainJob(settings.model_dump(mode="json"), str(datasets / "train"), str(datasets / "val"), str(folder))


# The error only gets worse: its rates are so high that the weights jump.
WORSE = {"lr_g": 3.0, "lr_d": 3.0, "best_metric": "val/error", "best_mode": "min"}


def test_patience_counts_validations_without_a_better_value():
    ending = Ending(config(best_metric="val/error", best_mode="min", patience=2).train)
    for step, error in enumerate([3.0, 2.0, 2.5, float("nan")]):
        assert ending.reason == ""
        ending.validated(step, {"val/error": error})
    assert "2 validations in a row without a better val/error" in ending.reason
    assert "best: 2 at step 1" in ending.reason
    # A checkpoint remembers, and more patience goes on.
    again = Ending(config(best_metric="val/error", best_mode="min", patience=3).train, ending.to_json())
    assert again.reason == ""
    again.validated(4, {"val/error": 2.0})
    assert "3 validations" in again.reason
    # Values of another metric are no measure.
    assert Ending(config(best_metric="val/error", best_mode="max", patience=2).train, ending.to_json()).reason == ""


def test_time_is_that_of_all_attempts():
    now = [100.0]
    limits = config(max_hours=0.5).train
    first = Ending(limits, clock=lambda: now[0])
    now[0] += 1000
    assert not first.is_due
    second = Ending(limits, first.to_json(), clock=lambda: now[0])
    now[0] += 801
    assert second.is_due
    assert second.reason == ""
    second.out_of_time()
    assert "it has trained for train.max_hours=0.5" in second.reason
    assert "max_hours=0.5" in Ending(limits, second.to_json()).reason
    assert Ending(config(max_hours=0.6).train, second.to_json()).reason == ""


def test_a_run_without_progress_saves_and_says_why_it_ended(datasets, tmp_path):
    outcome = run(job(datasets, tmp_path, patience=2, **WORSE))
    assert outcome.status == "finished"
    assert outcome.step < 12
    assert outcome.checkpoint.endswith(f"step-{outcome.step:08d}")
    (told,) = outcome.told
    assert told.startswith(f"ends at step {outcome.step} of 12: 2 validations in a row")
    # Once more it only measures; more patience goes on, to the end of a run that was never stopped.
    again = run(job(datasets, tmp_path, patience=2, **WORSE))
    assert (again.step, again.state_digest, again.metrics) == (outcome.step, outcome.state_digest, outcome.metrics)
    onwards = run(job(datasets, tmp_path, patience=100, **WORSE))
    assert onwards.state_digest == run(job(datasets, tmp_path / "straight", **WORSE)).state_digest


def test_interrupted_before_it_ends_it_ends_at_the_same_step(datasets, tmp_path):
    straight = run(job(datasets, tmp_path / "straight", patience=2, **WORSE))
    broken = job(datasets, tmp_path / "broken", patience=2, **WORSE)
    asked = iter(range(1, 100))
    with pytest.raises(KeyboardInterrupt):
        run(broken, interrupted=lambda: next(asked) == straight.step - 1)
    ended = run(broken)
    assert (ended.step, ended.state_digest) == (straight.step, straight.state_digest)


def test_out_of_time_it_saves_and_more_hours_go_on_to_the_same_bits(datasets, tmp_path):
    outcome = run(job(datasets, tmp_path / "short", max_hours=1e-9))
    assert (outcome.status, outcome.step) == ("finished", 1)
    assert "ends at step 1 of 12: it has trained for train.max_hours=1e-09" in outcome.told[0]
    assert [c.step for c in checkpoints.committed(open_store(str(tmp_path / "short")))] == [1]
    assert run(job(datasets, tmp_path / "short", max_hours=1e-9)).step == 1
    onwards = run(job(datasets, tmp_path / "short", max_hours=10))
    assert onwards.state_digest == run(job(datasets, tmp_path / "straight")).state_digest


def test_patience_without_a_metric_is_refused_and_lengths_are_no_part_of_the_identity():
    with pytest.raises(UserError, match=r"train\.patience=3 and train\.best_metric is not set"):
        config(patience=3)
    assert config(patience=3, best_metric="val/error", max_hours=1).identity() == config().identity()
    assert config(clip_norm=1).identity() != config().identity()
