"""Of two attempts at one run, the one that began last writes; the other stops at its next checkpoint."""

import threading

import noise_datasets
import pytest
import torch
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.storage import NotFound, StorageError, open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.async_writer import CheckpointWriter
from trainplane.train.checkpoint.fencing import KEY, FencingToken
from trainplane.train.checkpoint.retention import RetentionRules
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.errors import Superseded
from trainplane.train.launch.failure_policy import Cause, cause_of, decide_retry
from trainplane.train.loop import run
from trainplane.train.run_key import find_run_dir, register_run_dir
from trainplane.train.spec import NullProgress, TrainJob


def state(step):
    return TrainingState(step, {"module/g/w": torch.ones(2, 3)}, {"counters": {}, "param_groups": {}})


def test_whoever_began_last_may_write(tmp_path):
    store = open_store(str(tmp_path))
    first = FencingToken.acquire(store)
    first.check()
    second = FencingToken.acquire(store)
    with pytest.raises(Superseded, match=r"another attempt \(.+:\d+\) has continued the run in .*; wait for that one"):
        first.check()
    second.check()


@pytest.mark.parametrize("left", [None, b"", b"[]", b"{"])
def test_a_token_that_is_gone_or_torn_claims_nothing(tmp_path, left):
    store = open_store(str(tmp_path))
    token = FencingToken.acquire(store)
    store.delete(KEY)
    if left is not None:
        store.write(KEY, left)
    token.check()


def test_a_store_that_does_not_answer_is_not_taken_for_a_yes(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    token = FencingToken.acquire(store)
    monkeypatch.setattr(type(store), "read", lambda self, key: (_ for _ in ()).throw(StorageError("away")))
    with pytest.raises(StorageError):
        token.check()


def test_one_that_was_succeeded_neither_writes_over_nor_tidies_what_its_successor_is_writing(tmp_path):
    store = open_store(str(tmp_path))
    old = CheckpointWriter(store, RetentionRules(last=2))
    old.start()
    old.save(state(1), meta={})
    old.wait()
    new = CheckpointWriter(store, RetentionRules(last=2))
    new.start()
    new.resume_from(old.last)
    new.save(state(2), meta={})
    new.wait()
    # The successor is in the middle of step 3.
    store.write("step-00000003/tensors.safetensors", b"half")
    old.save(state(2), meta={})
    with pytest.raises(Superseded):
        old.finish()
    assert [c.step for c in checkpoints.committed(store)] == [1, 2]
    assert checkpoints.newest_good(store).checkpoint.step == 2
    assert store.read("step-00000003/tensors.safetensors") == b"half"


def test_succeeded_while_it_uploads_it_commits_nothing(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    old = CheckpointWriter(store, RetentionRules(last=2))
    old.start()
    write, sent = type(store).write, threading.Event()

    def slow(self, key, data):
        write(self, key, data)
        if key.endswith("unsent.spool") and not sent.is_set():
            sent.set()
            FencingToken.acquire(open_store(str(tmp_path)))

    monkeypatch.setattr(type(store), "write", slow)
    old.save(state(5), meta={})
    with pytest.raises(Superseded):
        old.wait()
    with pytest.raises(NotFound):
        store.read("step-00000005/manifest.json")


def test_two_that_train_the_same_run_end_as_one(tmp_path):
    datasets = noise_datasets.make(tmp_path / "datasets")
    train = {"steps": 12, "global_batch": 4, "checkpoint_every": 3, "validate_every": 12, "log_every": 2}
    config = build(TinyConfig, {"name": "tiny", "data": {"train": "t"}, "train": train}).model_dump(mode="json")

    def job(name):
        return TrainJob(config, str(datasets / "train"), None, str(tmp_path / name))

    second = []

    class Beside(NullProgress):
        def update(self, step, steps, pictures_per_s, metrics):
            if step == 5:
                # On another machine somebody types the same command, and it runs to its end.
                second.append(run(job("shared")))

    with pytest.raises(Superseded) as stopped:
        run(job("shared"), progress=Beside())
    assert second[0].state_digest == run(job("alone")).state_digest
    assert checkpoints.newest_good(open_store(str(tmp_path / "shared"))).state.digest() == second[0].state_digest
    assert cause_of(stopped.value) is Cause.OURS
    assert not decide_retry(stopped.value, cause=Cause.OURS, in_a_row={}, auto_micro_batch=True).retry


def test_a_store_that_may_be_read_and_not_written_is_found_even_where_the_run_is_there(faulty_s3, s3_address):
    config = build(TinyConfig, {"name": "tiny", "data": {"train": "t"}, "train": {"steps": 1, "global_batch": 4}})
    place = find_run_dir(config, key="k" * 64, checkpoints=s3_address, fresh=False)
    register_run_dir(place, config)
    assert find_run_dir(config, key="k" * 64, checkpoints=s3_address, fresh=False) == place
    faulty_s3.fault = lambda method, path, number: "denied" if method == "PUT" else None
    with pytest.raises(UserError, match=r"checkpoints cannot be written to s3://.*/tiny-kkkkkkkkkkkk .*; mend its"):
        register_run_dir(place, config)


def test_succeeded_while_it_tidies_it_removes_nothing_more(tmp_path, monkeypatch):
    """Retention lists folders without a manifest, among them what the successor is about to commit."""
    store = open_store(str(tmp_path))
    old = CheckpointWriter(store, RetentionRules(last=1, final=2))
    old.start()
    old.save(state(1), meta={})
    old.wait()
    listed = type(store).list

    def succeed_meanwhile(self, prefix=""):
        entries = list(listed(self, prefix))
        if prefix == "pins/" and self.size("step-00000002/manifest.json"):
            FencingToken.acquire(store)
            self.write("step-00000003/tensors.safetensors", b"half")
        return iter(entries)

    monkeypatch.setattr(type(store), "list", succeed_meanwhile)
    old.save(state(2), meta={})
    with pytest.raises(Superseded):
        old.finish()
    assert store.read("step-00000003/tensors.safetensors") == b"half"
    assert [checkpoint.step for checkpoint in checkpoints.committed(store)] == [1, 2]


def test_credentials_that_are_gone_are_not_taken_for_a_yes(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    token = FencingToken.acquire(store)
    monkeypatch.setattr(type(store), "read", lambda self, key: (_ for _ in ()).throw(UserError("no credentials")))
    with pytest.raises(UserError):
        token.check()
