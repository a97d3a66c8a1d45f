"""Damage that any rank replaced, in any attempt, is told, counted and kept in checkpoints."""

import datetime
import json

import noise_datasets
import pytest
import small_datasets
import torch
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.data.damage import Damage
from trainplane.data.manifest import Dataset
from trainplane.storage import open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.damage_log import DamageLog
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob
from trainplane.train.world import World

STEPS = 6


@pytest.fixture
def dataset(tmp_path):
    return Dataset.open(str(noise_datasets.make(tmp_path / "datasets") / "train"))


def job(dataset, folder, *, steps=STEPS, **data):
    train = {"steps": steps, "global_batch": 4, "checkpoint_every": 2, "validate_every": 500, "log_every": 1}
    values = {"name": "tiny", "data": {"train": "t", "on_damage": "quarantine", **data}, "train": train}
    config = build(TinyConfig, values)
    return TrainJob(config.model_dump(mode="json"), dataset.address, None, str(folder))


def samples_of(dataset, *, rank, steps, world=2):
    """Samples of one rank in steps of the first epoch."""
    order = dataset.order(seed=10, global_batch=4)
    slots = order.slots(rank=rank, world=world)
    return [visit.sample for step in steps for visit in order.visits(step, slots)]


def _rank(rank, world, folder, one):
    torch.set_num_threads(1)
    rendezvous, timeout = f"file://{folder}/meet", datetime.timedelta(seconds=60)
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world, timeout=timeout)
    outcome = run(one)
    (folder / f"rank-{rank}.json").write_text(json.dumps([outcome.damage, outcome.told]))
    torch.distributed.destroy_process_group()


def test_damage_on_another_rank_is_told_by_rank_0_and_stored_with_the_checkpoint(dataset, tmp_path):
    import torch.multiprocessing as mp

    spoilt = samples_of(dataset, rank=1, steps=[1])[0]
    shard, key = small_datasets.spoil_sample(dataset, spoilt)
    one = job(dataset, tmp_path / "run")
    mp.start_processes(_rank, args=(2, tmp_path, one), nprocs=2, start_method="fork")
    damage, told = json.loads((tmp_path / "rank-0.json").read_text())
    assert damage == [f"{shard}, sample {key}: damaged-payload"]
    assert told == [f"damaged samples replaced by others on rank 1: {damage[0]}"]
    store = open_store(one.checkpoints)
    for checkpoint in checkpoints.committed(store):
        stored = checkpoints.read(store, checkpoint).meta["damage"]
        assert [(sample["shard"], sample["key"]) for sample in stored] == [(shard, key)]


def test_damage_of_earlier_attempts_counts_and_each_sample_once(dataset, tmp_path):
    early, late = samples_of(dataset, rank=0, steps=[0], world=1)[0], samples_of(dataset, rank=0, steps=[4], world=1)[0]
    keys = {small_datasets.spoil_sample(dataset, sample)[1] for sample in (early, late)}
    assert len(run(job(dataset, tmp_path / "run", steps=2)).damage) == 1
    # More than an epoch of five steps, so the early one is met again.
    outcome = run(job(dataset, tmp_path / "run", steps=9))
    assert {line.split("sample ")[1].split(":")[0] for line in outcome.damage} == keys
    assert len(outcome.damage) == 2
    # A finished run says it again.
    assert run(job(dataset, tmp_path / "run", steps=9)).damage == outcome.damage


def test_a_clean_run_has_nothing_to_tell(dataset, tmp_path):
    outcome = run(job(dataset, tmp_path / "run", steps=1))
    assert (outcome.damage, outcome.told) == ([], [])


def test_a_message_names_three_samples_and_counts_the_others():
    log, here = DamageLog(), [Damage("s.tar", str(number), "zeros") for number in range(5)]
    message = log.collect(here, world=World(), device=torch.device("cpu"))
    assert message == (
        "damaged samples replaced by others on rank 0: s.tar, sample 0: zeros; s.tar, sample 1: zeros; "
        "s.tar, sample 2: zeros; and 2 more"
    )
    assert log.collect(here, world=World(), device=torch.device("cpu")) is None
    assert str(log) == "5 damaged samples were replaced"
