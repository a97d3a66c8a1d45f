"""A run whose number of ranks changes on the way sees the same samples in the same order and learns the same."""

import datetime
import os

import noise_datasets
import pytest
import torch
from safetensors.torch import load_file
from seen_task import SeenConfig

from trainplane.config.load import build
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob

PER_WORLD = 5
WORLDS = (2, 1, 3, 2)


def job(datasets, folder, *, steps):
    seen = folder / "seen"
    seen.mkdir(parents=True, exist_ok=True)
    train = {
        "steps": steps,
        "global_batch": 6,
        "checkpoint_every": 500,
        "validate_every": 500,
        "lr_g": 0.01,
        "lr_d": 0.05,
    }
    config = build(SeenConfig, {"name": "seen", "seen": str(seen), "data": {"train": "t"}, "train": train})
    return TrainJob(config.model_dump(mode="json"), str(datasets / "train"), None, str(folder / "checkpoints"))


def _rank(rank, world, rendezvous, one):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="0")
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=world,
        timeout=datetime.timedelta(seconds=60),
    )
    run(one)
    torch.distributed.destroy_process_group()


def steps_of(folder):
    """The global batches in the order of the steps, and their losses."""
    found = {}
    for file in sorted((folder / "seen").iterdir()):
        found.setdefault(file.name.split("-")[1], []).append(load_file(file))
    batches = [{name: torch.cat([one[name] for one in ranks]) for name in ("x", "y")} for _, ranks in found.items()]
    return batches, torch.stack([sum(one["loss"] for one in ranks) for ranks in found.values()])


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


def test_two_ranks_then_one_then_three_then_two_are_one_curve(datasets, tmp_path):
    import torch.multiprocessing as mp

    straight, changing = tmp_path / "straight", tmp_path / "changing"
    for number, world in enumerate(WORLDS, start=1):
        one = job(datasets, changing, steps=number * PER_WORLD)
        mp.start_processes(
            _rank, args=(world, str(tmp_path / f"meet-{number}"), one), nprocs=world, start_method="fork"
        )
    run(job(datasets, straight, steps=len(WORLDS) * PER_WORLD))
    ranks = [len(list((changing / "seen").glob(f"step-{step:03d}-*"))) for step in range(1, 1 + 4 * PER_WORLD)]
    assert ranks == [world for world in WORLDS for _ in range(PER_WORLD)]

    expected, expected_losses = steps_of(straight)
    batches, losses = steps_of(changing)
    for batch, alike in zip(batches, expected, strict=True):
        # Bit for bit: the samples, their order, and the randomness of their transform.
        assert torch.equal(batch["x"], alike["x"])
        assert torch.equal(batch["y"], alike["y"])
    torch.testing.assert_close(losses, expected_losses, rtol=1e-5, atol=1e-7)
    assert expected_losses[-5:].mean() < 0.5 * expected_losses[:5].mean()
