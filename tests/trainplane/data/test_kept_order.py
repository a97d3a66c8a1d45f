"""Promise 1 as a whole: a run killed and resumed on other ranks sees the batches of an uninterrupted run."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import small_datasets as small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.order import Order


@dataclass(frozen=True)
class Leg:
    """One leg of a run: `steps` are kept, then it is killed after `lost` more that no checkpoint has."""

    steps: int
    lost: int
    world: int
    workers: int


def legs(global_batch: int, *, most_steps: int, workers: st.SearchStrategy[int]) -> st.SearchStrategy[list[Leg]]:
    worlds = [world for world in range(1, 65) if global_batch % world == 0]
    leg = st.builds(Leg, st.integers(0, most_steps), st.integers(0, 3), st.sampled_from(worlds), workers)
    return st.lists(leg, min_size=1, max_size=5)


@st.composite
def orders_and_legs(draw: st.DrawFn) -> tuple[Order, list[Leg]]:
    sizes = draw(st.lists(st.integers(1, 300), min_size=1, max_size=8))
    global_batch = draw(st.sampled_from([1, 6, 12, 48, 60, 64]).filter(lambda batch: batch <= sum(sizes)))
    order = Order(
        digest="cd" * 32,
        shard_sizes=sizes,
        seed=draw(st.integers(0, 2**40)),
        global_batch=global_batch,
        sample_bytes=draw(st.sampled_from([2_000, 65_536, 10**6])),
    )
    return order, draw(legs(global_batch, most_steps=3 * order.steps_per_epoch, workers=st.just(0)))


@given(drawn=orders_and_legs())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
def test_kills_resumes_and_changes_of_world_leave_the_global_batches_as_they_were(
    drawn: tuple[Order, list[Leg]],
) -> None:
    order, run_legs = drawn
    kept: list[np.ndarray] = []
    for leg in run_legs:
        done = len(kept)
        for step in range(done, done + leg.steps + leg.lost):
            shares = [order.share(step, rank=rank, world=leg.world) for rank in range(leg.world)]
            kept.append(np.concatenate(shares))
        del kept[done + leg.steps :]
    assert all(np.array_equal(batch, order.batch(step)) for step, batch in enumerate(kept))
    for epoch in range(len(kept) // order.steps_per_epoch):
        samples = np.concatenate(kept[epoch * order.steps_per_epoch : (epoch + 1) * order.steps_per_epoch])
        assert len(np.unique(samples)) == len(samples) > order.num_samples - order.global_batch


GLOBAL_BATCH = 12


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """103 samples in shards of several sizes: 8 steps an epoch, and 7 samples left out of each."""
    return small.make(tmp_path_factory.mktemp("kept") / "set", 103)


@pytest.fixture(scope="module")
def undisturbed(dataset: Dataset) -> list[dict[str, list]]:
    return batches_of_leg(dataset, Leg(60, 0, 1, 0), start=0)


@given(run_legs=legs(GLOBAL_BATCH, most_steps=10, workers=st.just(0)))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_loaders_that_are_killed_and_resumed_hand_out_the_same_tensors_in_the_same_order(
    dataset: Dataset, undisturbed: list[dict[str, list]], run_legs: list[Leg]
) -> None:
    assert batches_of_run(dataset, run_legs) == undisturbed[: sum(leg.steps for leg in run_legs)]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@given(run_legs=legs(GLOBAL_BATCH, most_steps=6, workers=st.integers(0, 3)))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_worker_processes_of_any_number_join_and_leave_without_a_trace(
    dataset: Dataset, undisturbed: list[dict[str, list]], run_legs: list[Leg]
) -> None:
    assert batches_of_run(dataset, run_legs) == undisturbed[: sum(leg.steps for leg in run_legs)]


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_three_workers_after_none_and_a_smaller_world_after_a_larger(
    dataset: Dataset, undisturbed: list[dict[str, list]]
) -> None:
    run_legs = [Leg(5, 2, 4, 0), Leg(3, 1, 1, 3), Leg(4, 0, 2, 1)]
    assert batches_of_run(dataset, run_legs) == undisturbed[:12]


def batches_of_run(dataset: Dataset, run_legs: list[Leg]) -> list[dict[str, list]]:
    """Global batches of a run of several legs, from all ranks' shares."""
    kept: list[dict[str, list]] = []
    for leg in run_legs:
        kept += batches_of_leg(dataset, leg, start=len(kept))
    return kept


def batches_of_leg(dataset: Dataset, leg: Leg, *, start: int) -> list[dict[str, list]]:
    ranks = [batches_of_rank(dataset, leg, rank, start=start) for rank in range(leg.world)]
    return [
        {name: list(itertools.chain.from_iterable(share[name] for share in shares)) for name in shares[0]}
        for shares in zip(*ranks, strict=True)
    ]


def batches_of_rank(dataset: Dataset, leg: Leg, rank: int, *, start: int) -> list[dict[str, list]]:
    """Batches that one rank keeps of a leg; the loader is dropped `lost` steps later."""
    loader = Loader(
        dataset,
        transform=small.number_and_chance,
        seed=10,
        global_batch=GLOBAL_BATCH,
        rank=rank,
        world=leg.world,
        workers=leg.workers,
    )
    kept: list[dict[str, list]] = []
    with loader:
        batches = loader.batches(start=start, stop=10**6)
        for step, batch in itertools.islice(batches, leg.steps + leg.lost):
            assert step == start + len(kept) or len(kept) == leg.steps
            if len(kept) < leg.steps:
                kept.append({name: tensor.tolist() for name, tensor in batch.items()})
    return kept


def test_an_epoch_whose_size_does_not_divide_leaves_out_less_than_a_batch(tmp_path: Path) -> None:
    for count in (12, 13, 23, 24, 25):
        dataset = small.make(tmp_path / str(count), count)
        steps = count // GLOBAL_BATCH
        for world in (1, 3, 12):
            samples = [
                number
                for batch in batches_of_leg(dataset, Leg(steps, 0, world, 0), start=steps)
                for number in batch["n"]
            ]
            assert len(samples) == len(set(samples)) == steps * GLOBAL_BATCH
