"""The loop over the task seam, with a task that is not inpainting: it records, checkpoints, and resumes bit-equal."""

from dataclasses import replace

import noise_datasets
import pytest
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.tracking.tracker import Recorder
from trainplane.train import setup
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.loop import run
from trainplane.train.pulse import PULSE
from trainplane.train.spec import TrainJob


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


def config(**train):
    values = {"steps": 12, "global_batch": 4, "checkpoint_every": 3, "validate_every": 6, "log_every": 2, **train}
    return build(TinyConfig, {"name": "tiny", "data": {"train": "t", "val": "v"}, "train": values})


def job(datasets, checkpoint_folder, settings):
    return TrainJob(
        settings.model_dump(mode="json"), str(datasets / "train"), str(datasets / "val"), str(checkpoint_folder)
    )


def test_loss_falls_and_the_outcome_says_where_it_ended(datasets, tmp_path):
    settings = config(steps=60, lr_g=0.01, lr_d=0.05)
    outcome = run(job(datasets, tmp_path, settings))
    untrained = run(job(datasets, tmp_path / "untrained", config(steps=1, lr_g=1e-12, lr_d=1e-12)))
    assert outcome.status == "finished"
    assert outcome.step == 60
    assert outcome.metrics["val/error"] < 0.5 * untrained.metrics["val/error"]
    assert outcome.checkpoint == f"{tmp_path}/step-00000060"


@pytest.mark.parametrize("stop_after", [1, 3, 4, 7, 11])
def test_interrupted_anywhere_it_ends_on_the_same_bits(datasets, tmp_path, stop_after):
    straight = run(job(datasets, tmp_path / "straight", config()))
    asked = iter(range(1, 100))
    broken = job(datasets, tmp_path / "broken", config())
    with pytest.raises(KeyboardInterrupt):
        run(broken, interrupted=lambda: next(asked) == stop_after)
    present = checkpoints.committed(open_store(broken.checkpoints))
    assert present[-1].step == stop_after
    assert run(broken).state_digest == straight.state_digest


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_end_is_the_same(datasets, tmp_path, caplog):
    straight = run(job(datasets, tmp_path / "straight", config()))
    broken = job(datasets, tmp_path / "broken", config(steps=6))
    run(broken)
    file = tmp_path / "broken" / "step-00000006" / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    longer = run(job(datasets, tmp_path / "broken", config()))
    assert longer.state_digest == straight.state_digest
    (told,) = longer.told
    assert told.endswith("resumed at step 3")
    assert "tensors.safetensors is damaged" in caplog.text


def test_a_server_that_takes_no_records_at_the_end_is_no_stall(datasets, tmp_path, monkeypatch):
    closings = []

    class Slow(Recorder):
        def close(self, timeout_s=30.0):
            closings.append((timeout_s, PULSE.phase))
            return 0

    monkeypatch.setattr(setup, "tracker_of", lambda job, world: Slow())
    for stall_s, expected_s in ((10, 5.0), (600, 30.0)):
        task = job(datasets, tmp_path / str(stall_s), config(steps=2, stall_s=stall_s))
        # A run that ends early, then one that gets to its end.
        with pytest.raises(KeyboardInterrupt):
            run(task, interrupted=lambda: True)
        run(task)
        assert set(closings) == {(expected_s, "record")}
        closings.clear()


def test_micro_batches_do_not_change_what_is_learnt(datasets, tmp_path):
    # The task's noise is drawn per micro-batch, so only the arithmetic of one step without it can be compared: the
    # number of samples seen and the counters.
    whole = run(job(datasets, tmp_path / "whole", config(steps=3)))
    split = run(job(datasets, tmp_path / "split", config(steps=3, micro_batch=2)))
    assert split.step == whole.step
    assert split.metrics["val/error"] == pytest.approx(whole.metrics["val/error"], rel=0.05)


@pytest.mark.parametrize("which", ["train_digest", "val_digest"])
def test_a_dataset_replaced_before_a_rank_opens_it_is_refused_without_any_checkpoint(datasets, tmp_path, which):
    begun_with = replace(job(datasets, tmp_path, config(steps=3)), **{which: "0" * 64})
    with pytest.raises(UserError, match=r"another dataset stands there by now .* began with 000000000000"):
        run(begun_with)


def test_another_dataset_is_refused_and_both_digests_are_named(datasets, tmp_path):
    run(job(datasets, tmp_path, config(steps=3)))
    other = TrainJob(config().model_dump(mode="json"), str(datasets / "val"), None, str(tmp_path))
    with pytest.raises(UserError) as refusal:
        run(other)
    for name in ("train", "val"):
        assert Dataset.open(str(datasets / name)).digest in str(refusal.value)


def test_fewer_steps_than_done_is_refused(datasets, tmp_path):
    run(job(datasets, tmp_path, config(steps=6)))
    with pytest.raises(UserError, match=r"has done 6 steps already, more than train\.steps=3"):
        run(job(datasets, tmp_path, config(steps=3)))


def test_a_finished_run_only_validates_again(datasets, tmp_path):
    first = run(job(datasets, tmp_path, config(steps=6)))
    again = run(job(datasets, tmp_path, config(steps=6)))
    assert again.state_digest == first.state_digest
    assert again.metrics == first.metrics


def test_report_may_end_a_run_early(datasets, tmp_path):
    outcome = run(job(datasets, tmp_path, config()), report=lambda step, metrics: step < 6)
    assert (outcome.status, outcome.step) == ("stopped", 6)
    assert outcome.checkpoint.endswith("step-00000006")


def test_only_the_newest_checkpoints_are_kept(datasets, tmp_path):
    run(job(datasets, tmp_path, config(keep_checkpoints=2)))
    assert [c.step for c in checkpoints.committed(open_store(str(tmp_path)))] == [9, 12]
