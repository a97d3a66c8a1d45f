"""One rank reads a checkpoint, whatever their number, and all restore the same state."""

from types import SimpleNamespace

import pytest
import torch
from forked_ranks import run_ranks
from tiny_task import TinyConfig, TinyTask

from trainplane.config.load import build
from trainplane.storage import open_store
from trainplane.train import world as worlds
from trainplane.train.checkpoint import state as states
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.broadcast import shared
from trainplane.train.checkpoint.resume import load_newest
from trainplane.train.checkpoint.state import TrainingState
from trainplane.train.checkpoint.store import Checkpoint, LoadedCheckpoint

CPU = torch.device("cpu")


def tiny_task(seed):
    torch.manual_seed(seed)
    config = build(TinyConfig, {"name": "t", "data": {"train": "t"}, "train": {"steps": 9, "global_batch": 4}})
    return config, TinyTask(config, CPU)


def trained_run(folder):
    """A run with three checkpoints; returns the digest of the newest."""
    _, task = tiny_task(seed=1)
    reduce = SimpleNamespace(sum_=lambda tensors: None)
    store = open_store(str(folder))
    for step in (1, 2, 3):
        task.step([{"x": torch.rand(4, 8), "y": torch.rand(4, 1)}], global_batch=4, reduce=reduce)
        state = states.capture(task, step=step)
        checkpoints.write(store, state, meta={"dataset_digest": "d", "order_hash": "o"}, unsent=b"records")
    return state.digest()


class CountingStore:
    """Counts requests and bytes of the reads of a store."""

    def __init__(self, store):
        self.store, self.address = store, store.address
        self.requests, self.bytes = [], 0

    def read(self, key, **range_):
        data = self.store.read(key, **range_)
        self.requests.append(key)
        self.bytes += len(data)
        return data

    def list(self, prefix=""):
        self.requests.append(f"list {prefix}")
        return self.store.list(prefix)


def resume(folder):
    def rank(world):
        config, task = tiny_task(seed=world.rank + 2)
        store = CountingStore(open_store(str(folder)))
        must_match = {"dataset_digest": "d", "order_hash": "o"}
        loaded = load_newest(task, store, config=config, must_match=must_match, world=world)
        return states.capture(task, step=loaded.checkpoint.step).digest(), loaded.unsent, store.requests, store.bytes

    return rank


@pytest.mark.parametrize("size", [1, 2, 4])
def test_requests_and_bytes_are_those_of_one_rank(tmp_path, size):
    digest = trained_run(tmp_path)
    ranks = run_ranks(resume(tmp_path), size)
    assert [rank[0] for rank in ranks] == [digest] * size
    # The newest manifest and its three files, and no other checkpoint's.
    _, unsent, requests, num_bytes = ranks[0]
    folder = "step-00000003"
    files = ["manifest.json", "state.json", "tensors.safetensors", "unsent.spool"]
    assert sorted(requests) == sorted(["list step-", *(f"{folder}/{name}" for name in files)])
    assert num_bytes == sum((tmp_path / folder / name).stat().st_size for name in files)
    assert unsent == b"records"
    assert [rank[1:] for rank in ranks[1:]] == [(b"", [], 0)] * (size - 1)


def test_a_run_without_checkpoints_begins_on_every_rank():
    assert run_ranks(lambda world: shared(None, world=world, device=CPU), 2) == [None, None]


@pytest.mark.parametrize("piece", [1, 7, 64, 1000])
def test_tensors_arrive_whole_in_pieces_of_any_size(monkeypatch, piece):
    monkeypatch.setattr(worlds, "PIECE_BYTES", piece)
    tensors = {
        "a": torch.arange(7, dtype=torch.float32).reshape(7, 1),
        "b": torch.tensor(3, dtype=torch.int64),
        "c": torch.empty(0),
        "d": torch.tensor([True, False, True]),
        "e": torch.linspace(0, 1, 9).to(torch.bfloat16),
        "f": torch.tensor([float("nan"), -0.0]),
    }
    state = TrainingState(5, tensors, {"counters": {}, "param_groups": {}})
    loaded = LoadedCheckpoint(Checkpoint(5, "step-00000005", {"step": 5}), state, {"é": 1}, b"x", ("one is damaged",))

    def rank(world):
        got = shared(loaded if world.is_first else None, world=world, device=CPU)
        return got.state.digest(), got.meta, got.damaged, got.checkpoint

    for found in run_ranks(rank, 2):
        assert found == (state.digest(), loaded.meta, loaded.damaged, loaded.checkpoint)
