"""Promise 1 and 2 in the batches: the same on any ranks and workers, resumed anywhere, and never of damaged bytes."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import small_datasets as small
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.data.damage import DamageError
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.order import Order, sample_rng
from trainplane.data.pack.pack import pack
from trainplane.errors import UserError
from trainplane.storage import RetryPolicy, StorageError, open_store
from trainplane.store_wait import STORE_WAITS, VARIABLE, Wait

GLOBAL_BATCH = 12
OUTAGE = RetryPolicy(attempts=2, base_s=0.001, cap_s=0.01, outage_cap_s=0.2)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """100 sound samples: 8 steps an epoch. Tests that spoil one make their own."""
    return small.make(tmp_path_factory.mktemp("loader") / "set", 100)


@pytest.fixture(autouse=True)
def no_thread_or_process_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith(("loader", "fetch"))] == []
    assert multiprocessing.active_children() == []


def loader_of(dataset: Dataset, **changed: object) -> Loader:
    options: dict = {"transform": small.number_and_chance, "seed": 10, "global_batch": GLOBAL_BATCH}
    return Loader(dataset, **(options | changed))


def load(loader: Loader, start: int, stop: int) -> list[tuple[int, dict[str, list]]]:
    with loader:
        return [
            (step, {name: tensor.tolist() for name, tensor in batch.items()})
            for step, batch in loader.batches(start=start, stop=stop)
        ]


def numbers(batches: Sequence[tuple[int, dict[str, list]]]) -> list[int]:
    return [number for _, batch in batches for number in batch["n"]]


def test_batches_are_the_orders_with_each_samples_own_randomness(dataset: Dataset) -> None:
    order = dataset.order(seed=10, global_batch=GLOBAL_BATCH)
    loader = loader_of(dataset)
    assert loader.order_hash == order.hash
    assert loader.steps_per_epoch == order.steps_per_epoch == 8
    originals = small.items(100)
    for step, batch in load(loader, 5, 20):
        samples = order.batch(step).tolist()
        assert batch["n"] == samples
        assert batch["sum"] == [sum(originals[sample].data) for sample in samples]
        rngs = [sample_rng(seed=10, epoch=step // 8, sample=sample) for sample in samples]
        assert np.array_equal(batch["chance"], [rng.random(4) for rng in rngs])
    assert loader.damage == []


def test_tensors_are_stacked_along_a_first_axis_of_the_ranks_share(dataset: Dataset) -> None:
    with loader_of(dataset, rank=1, world=3) as loader:
        _, batch = next(iter(loader.batches(start=0, stop=1)))
    assert batch["chance"].shape == (4, 4)
    assert batch["chance"].dtype == torch.float64
    assert batch["n"].shape == (4,)


@given(step=st.integers(0, 30), count=st.integers(0, 12), world=st.sampled_from([1, 2, 3, 4, 6, 12]))
@settings(max_examples=25, deadline=None)
def test_any_world_size_continues_from_any_step_with_the_same_batches(
    dataset: Dataset, step: int, count: int, world: int
) -> None:
    whole = load(loader_of(dataset), step, step + count)
    shares = [load(loader_of(dataset, rank=rank, world=world), step, step + count) for rank in range(world)]
    assert all(len(share) == count for share in shares)
    for number, (step_of_whole, batch) in enumerate(whole):
        assert all(share[number][0] == step_of_whole for share in shares)
        for name, values in batch.items():
            assert list(itertools.chain.from_iterable(share[number][1][name] for share in shares)) == values


@pytest.mark.parametrize(("workers", "world"), [(1, 1), (2, 1), (2, 4)])
def test_worker_processes_change_nothing(dataset: Dataset, workers: int, world: int) -> None:
    for rank in (0, world - 1):
        inline = load(loader_of(dataset, rank=rank, world=world), 5, 19)
        assert load(loader_of(dataset, rank=rank, world=world, workers=workers), 5, 19) == inline


def test_more_workers_than_samples_of_a_share_are_not_started(dataset: Dataset) -> None:
    inline = load(loader_of(dataset, rank=3, world=12), 0, 3)
    assert load(loader_of(dataset, rank=3, world=12, workers=2), 0, 3) == inline


def test_reads_from_s3_in_worker_processes(s3_address: str) -> None:
    dataset = small.make(s3_address, 40)
    assert load(loader_of(dataset, workers=1), 0, 4) == load(loader_of(dataset), 0, 4)


def test_every_epoch_delivers_every_sample_once_short_of_one_batch(dataset: Dataset) -> None:
    steps = numbers(load(loader_of(dataset), 8, 16))
    assert len(steps) == len(set(steps)) == 96


def test_world_sizes_that_do_not_divide_the_batch_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="divides 12"):
        loader_of(dataset, rank=0, world=5)
    with pytest.raises(UserError, match=r"100 samples.*needs 101"):
        loader_of(dataset, global_batch=101)
    with pytest.raises(UserError, match="workers=-1"):
        loader_of(dataset, workers=-1)


class TestEnding:
    """Nothing stays behind, however a loop ends; the fixture above looks for threads and processes."""

    @pytest.mark.parametrize("workers", [0, 1])
    def test_breaking_out_of_the_loop(self, dataset: Dataset, workers: int) -> None:
        before = {child.pid for child in psutil.Process().children(recursive=True)}
        for step, _ in loader_of(dataset, workers=workers).batches(start=0, stop=10**6):
            if step == 3:
                break
        left = {child.pid for child in psutil.Process().children(recursive=True)} - before
        # The server that workers are forked from, and Python's tracker beside it, serve later loaders too.
        assert all("forkserver" in line or "tracker" in line for line in map(command_of, left))

    def test_closing_the_loader_while_an_iterator_is_held(self, dataset: Dataset) -> None:
        loader = loader_of(dataset)
        batches = loader.batches(start=0, stop=10**6)
        next(iter(batches))
        loader.close()
        assert list(batches) == []

    def test_an_error_in_the_loops_body(self, dataset: Dataset) -> None:
        def train() -> None:
            with loader_of(dataset) as loader:
                for _ in loader.batches(start=0, stop=100):
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            train()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_fault_of_the_transform_is_no_damage_and_shows_itself(self, dataset: Dataset, workers: int) -> None:
        with pytest.raises(KeyError, match="a fault of the transform's own"):
            load(loader_of(dataset, transform=small.faulty, workers=workers), 0, 1)

    def test_a_store_that_fails_is_named_even_from_a_worker(self, faulty_s3, s3_address: str) -> None:
        small.make(s3_address, 40)
        policy = RetryPolicy(attempts=2, base_s=0.001, cap_s=0.01)
        dataset = Dataset.open(open_store(s3_address, policy=policy))
        faulty_s3.fault = lambda method, path, number: "500" if path.endswith(".tar") else None
        for workers in (0, 1):
            with pytest.raises(StorageError, match=r"^s3://.* keeps failing \(InternalError\)"):
                load(loader_of(dataset, workers=workers), 0, 4)

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_store_that_is_away_is_waited_for_and_the_batches_are_the_same(
        self, faulty_s3, s3_address: str, monkeypatch, workers: int
    ) -> None:
        monkeypatch.setenv(VARIABLE, "60")
        monkeypatch.setattr(STORE_WAITS, "is_over", False)
        dataset = Dataset.open(open_store(small.make(s3_address, 40).address, policy=OUTAGE))
        undisturbed = load(loader_of(dataset), 0, 4)
        # Back a little after somebody waits, however late a worker starts.
        faulty_s3.go_away("503", 600)
        beats, told = STORE_WAITS.beats, []

        def tell(wait: Wait) -> None:
            told.append(wait)
            threading.Timer(1.0, faulty_s3.come_back).start()

        with STORE_WAITS.listening(tell, lambda: False):
            assert load(loader_of(dataset, workers=workers), 0, 4) == undisturbed
        assert STORE_WAITS.beats > beats
        assert [wait.until is None for wait in told[:2]] == [True, False]

    @pytest.mark.parametrize("workers", [0, 1])
    def test_one_that_is_closed_does_not_wait(self, faulty_s3, s3_address: str, monkeypatch, workers: int) -> None:
        monkeypatch.setenv(VARIABLE, "600")
        monkeypatch.setattr(STORE_WAITS, "is_over", False)
        dataset = Dataset.open(open_store(small.make(s3_address, 40).address, policy=OUTAGE))
        loader = loader_of(dataset, workers=workers, cache_bytes=1)
        batches = loader.batches(start=0, stop=100)
        next(batches)
        faulty_s3.go_away("503", 600)
        began = time.monotonic()
        loader.close()
        assert time.monotonic() - began < 30

    @pytest.mark.nightly
    def test_a_killed_worker_ends_the_run(self, dataset: Dataset) -> None:
        with pytest.raises(RuntimeError, match="worker"):
            load(loader_of(dataset, transform=small.killed, workers=1), 0, 4)


def command_of(pid: int) -> str:
    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return "tracker"


class TestDamage:
    @pytest.fixture
    def spoilt(self, tmp_path: Path) -> Dataset:
        dataset = small.make(tmp_path / "set", 100)
        self.spoilt_at = [7, 42, 43]
        self.where = [small.spoil_sample(dataset, sample) for sample in self.spoilt_at]
        return dataset

    @pytest.mark.parametrize("workers", [0, 1])
    def test_fail_names_dataset_shard_sample_and_kind_before_the_batch(self, spoilt: Dataset, workers: int) -> None:
        loader = loader_of(spoilt, workers=workers)
        steps: list[int] = []
        with pytest.raises(DamageError) as found, loader:
            steps.extend(step for step, _ in loader.batches(start=0, stop=8))
        first = next(step for step, batch in enumerate(self.clean_epoch()) if set(batch) & set(self.spoilt_at))
        assert steps == list(range(first))
        assert len(loader.damage) == 1
        (damage,) = loader.damage
        assert (damage.shard, damage.key) in self.where
        assert damage.kind == "damaged-payload"
        assert all(word in str(found.value) for word in (spoilt.address, damage.shard, damage.key, damage.kind))

    def test_quarantine_gives_the_place_to_another_sample_the_same_on_all_ranks_and_workers(
        self, spoilt: Dataset
    ) -> None:
        loader = loader_of(spoilt, on_damage="quarantine")
        batches = load(loader, 0, 16)
        assert {(one.shard, one.key) for one in loader.damage} == set(self.where)
        assert all(one.kind == "damaged-payload" for one in loader.damage)
        clean = self.clean_epoch()
        for (step, batch), undamaged in zip(batches[:8], clean, strict=True):
            for slot, (got, planned) in enumerate(zip(batch["n"], undamaged, strict=True)):
                assert got not in self.spoilt_at
                assert got == planned or (planned in self.spoilt_at and got == self.substitute(step, slot))
        shares = [
            load(loader_of(spoilt, on_damage="quarantine", rank=rank, world=2, workers=rank), 0, 16)
            for rank in range(2)
        ]
        for number, (_, batch) in enumerate(batches):
            for name, values in batch.items():
                assert shares[0][number][1][name] + shares[1][number][1][name] == values

    def test_a_spent_budget_ends_the_run_at_the_same_step_with_and_without_workers(self, spoilt: Dataset) -> None:
        ends = []
        for workers in (0, 2):
            loader = loader_of(spoilt, on_damage="quarantine", damage_budget=1, workers=workers)
            steps = []
            with pytest.raises(DamageError, match=r"data\.damage_budget=1"), loader:
                steps.extend(step for step, _ in loader.batches(start=0, stop=16))
            ends.append((steps, len(loader.damage)))
        assert ends[0] == ends[1]

    def test_a_lost_shard_is_missed_not_skipped(self, tmp_path: Path) -> None:
        dataset = small.make(tmp_path / "set", 100)
        lost = dataset.shards[1]
        dataset.store.delete(lost.name)
        with pytest.raises(DamageError, match=f"{lost.name}.*missing-shard"):
            load(loader_of(dataset), 0, 8)
        loader = loader_of(dataset, on_damage="quarantine", damage_budget=100)
        batches = load(loader, 0, 8)
        assert not set(numbers(batches)) & set(dataset.index.samples_of(1))
        assert len(numbers(batches)) == 96
        assert {one.kind for one in loader.damage} == {"missing-shard"}

    @pytest.mark.parametrize(
        ("on_damage", "said"), [("fail", "another dataset stands there"), ("quarantine", "put the former one back")]
    )
    def test_a_dataset_replaced_under_a_running_job_is_reported(self, tmp_path: Path, on_damage, said) -> None:
        dataset = small.make(tmp_path / "set", 100)
        loader = loader_of(dataset, on_damage=on_damage)
        assert loader.order_hash
        _ = dataset.index
        pack(small.items(90, seed=1), dataset.address, name="o", split="all", shard_bytes=40_000, how={}, replace=True)
        with pytest.raises(DamageError, match=said):
            load(loader, 0, 8)
        Path(dataset.address, "manifest.json").unlink()
        with pytest.raises(DamageError, match="its manifest is gone"):
            load(loader_of(dataset), 0, 8)

    def test_what_the_transform_cannot_decode_is_damage_too(self, dataset: Dataset) -> None:
        refusing = small.Refusing(3, 4)
        with pytest.raises(DamageError, match=r"undecodable \(this is no picture\)"):
            load(loader_of(dataset, transform=refusing), 0, 8)
        loader = loader_of(dataset, transform=refusing, on_damage="quarantine")
        assert not {3, 4} & set(numbers(load(loader, 0, 8)))
        assert {one.key for one in loader.damage} <= {dataset.index.key_of(n) for n in (3, 4)}
        assert {one.kind for one in loader.damage} == {"undecodable"}

    def test_a_dataset_without_a_sound_sample_is_given_up(self, dataset: Dataset) -> None:
        loader = loader_of(dataset, transform=small.Refusing(*range(100)), on_damage="quarantine", damage_budget=10**6)
        with pytest.raises(DamageError, match="in a row"):
            load(loader, 0, 1)

    def clean_epoch(self) -> list[list[int]]:
        return [self.order().batch(step).tolist() for step in range(8)]

    def substitute(self, step: int, slot: int) -> int:
        attempts = (self.order().substitute(step, slot, attempt=attempt) for attempt in range(32))
        return next(sample for sample in attempts if sample not in self.spoilt_at)

    def order(self) -> Order:
        return self.undamaged.order(seed=10, global_batch=GLOBAL_BATCH)

    @pytest.fixture(autouse=True)
    def _facts(self, dataset: Dataset) -> None:
        self.undamaged = dataset
