"""Promise 2, at the reader: a byte that is not as packed is noticed before use."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import small_datasets as small
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trainplane.data.damage import Damage, DamageError, check_member
from trainplane.data.manifest import Dataset
from trainplane.data.order import Visit
from trainplane.data.read.fetch import Fetcher, read_samples
from trainplane.errors import UserError
from trainplane.storage import RetryPolicy, open_store


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return small.make(tmp_path / "set", 100)


def walk_epoch(dataset: Dataset, *, world: int, cache_bytes: int, epoch: int = 0) -> list[bytes]:
    """Samples of one epoch, rank after rank, each with a fetcher of its own."""
    order = dataset.order(seed=1, global_batch=8)
    first = epoch * order.steps_per_epoch
    samples = []
    for rank in range(world):
        slots = order.slots(rank=rank, world=world)
        steps = range(first, first + order.steps_per_epoch)
        walk = ((step, order.visits(step, slots)) for step in steps)
        with Fetcher(dataset, cache_bytes=cache_bytes) as fetcher:
            for visited in fetcher.walk(walk):
                for _, members in visited:
                    assert not isinstance(members, Damage)
                    samples.append(members["png"])
    return samples


@given(indices=st.lists(st.integers(0, 99), max_size=30))
@settings(max_examples=20, deadline=None)
def test_reads_samples_in_the_order_asked_for(tmp_path_factory, indices: list[int]) -> None:
    dataset = small.make(tmp_path_factory.mktemp("set"), 100)
    originals = small.items(100)
    samples = read_samples(dataset, indices)
    assert [sample["png"] for sample in samples] == [originals[index].data for index in indices]
    for index, sample in zip(indices, samples, strict=True):
        assert sample.keys() == {"png", "json", "__key__"}
        assert sample["__key__"].decode() == dataset.index.key_of(index)


def test_neighbours_are_read_with_one_request(dataset: Dataset) -> None:
    dataset, store = small.counting(dataset)
    read_samples(dataset, range(dataset.shard_sizes[0]))
    assert len(store.reads) == 1
    read_samples(dataset, range(dataset.num_samples))
    assert len(store.reads) == 1 + dataset.num_shards


def test_samples_that_do_not_exist_are_refused(dataset: Dataset) -> None:
    for indices in ([-1], [100], [3, 250]):
        with pytest.raises(UserError, match="has 0 to 99"):
            read_samples(dataset, indices)


@pytest.mark.parametrize("cache_bytes", [0, 20_000, 10**9])
@pytest.mark.parametrize("world", [1, 2, 8])
def test_an_epoch_reads_each_byte_once_with_any_ranks_and_memory(tmp_path: Path, world: int, cache_bytes: int) -> None:
    dataset, store = small.counting(small.make(tmp_path, 2500, shard_bytes=400_000))
    samples = walk_epoch(dataset, world=world, cache_bytes=cache_bytes)
    originals = {item.data for item in small.items(2500)}
    assert len(samples) == len(set(samples)) == 2500 // 8 * 8
    assert set(samples) <= originals
    assert store.bytes_read <= 1.0 * dataset.bytes
    if cache_bytes == 10**9:
        # Blocks of 39 at this size.
        assert len(store.reads) < 0.05 * len(samples)


@pytest.mark.parametrize("count", [2049, 2500, 3000])
def test_with_little_memory_one_epoch_goes_over_into_the_next(tmp_path: Path, count: int) -> None:
    """A sample that is read by itself at the end of an epoch may be met again at once."""
    dataset = small.make(tmp_path, count, shard_bytes=400_000)
    order = dataset.order(seed=1, global_batch=8)
    steps = ((step, order.visits(step, range(8))) for step in range(3 * order.steps_per_epoch))
    originals = [item.data for item in small.items(count)]
    with Fetcher(dataset, cache_bytes=100_000) as fetcher:
        for visited in fetcher.walk(steps):
            for visit, members in visited:
                assert not isinstance(members, Damage)
                assert members["png"] == originals[visit.sample]
        assert fetcher.held_bytes <= 200_000


def test_a_dataset_that_fits_into_memory_is_read_once_for_all_epochs(dataset: Dataset) -> None:
    dataset, store = small.counting(dataset)
    order = dataset.order(seed=1, global_batch=10)
    with Fetcher(dataset) as fetcher:
        for _ in fetcher.walk((step, order.visits(step, range(10))) for step in range(50)):
            pass
    assert store.bytes_read <= dataset.bytes


def test_memory_held_stays_within_its_bound(tmp_path: Path) -> None:
    dataset = small.make(tmp_path, 2500, shard_bytes=400_000)
    order = dataset.order(seed=1, global_batch=8)
    bound, largest = 60_000, 2 * (2000 + 1024 + 512)
    with Fetcher(dataset, cache_bytes=bound) as fetcher:
        steps = range(2 * order.steps_per_epoch)
        for _ in fetcher.walk((step, order.visits(step, range(8))) for step in steps):
            # Samples read by themselves wait, for the steps ahead, beside what is kept.
            assert fetcher.held_bytes <= bound + 8 * 5 * largest
        assert fetcher.held_bytes == len(fetcher.pending) == 0


@pytest.mark.parametrize("start", [0, 1, 77, 150, 300, 311])
def test_a_walk_from_the_middle_keeps_no_sample_visited_before(tmp_path: Path, start: int) -> None:
    dataset = small.make(tmp_path, 2500, shard_bytes=400_000)
    order = dataset.order(seed=1, global_batch=8)
    slots = order.slots(rank=1, world=2)
    steps = range(start, start + order.steps_per_epoch)
    originals = [item.data for item in small.items(2500)]
    with Fetcher(dataset, cache_bytes=10**6) as fetcher:
        walk = ((step, order.visits(step, slots)) for step in steps)
        for step, visits in zip(steps, fetcher.walk(walk, visited=order.visited_before(start, slots)), strict=True):
            assert [visit.sample for visit, _ in visits] == order.share(step, rank=1, world=2).tolist()
            assert all(originals[visit.sample] == members["png"] for visit, members in visits)
        held = list(fetcher.pending)
    # Only samples whose windows reach beyond the last step are still held.
    assert bool(held) is (start > 0)
    assert all(until >= steps.stop for _, until in held)


def test_reading_threads_end_with_the_fetcher(dataset: Dataset) -> None:
    read_samples(dataset, [1, 2, 50])
    with Fetcher(dataset) as fetcher:
        next(fetcher.walk([(0, [Visit(3, 0, 5)])]))
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")] != []
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("fetch")] == []


def cut(dataset: Dataset, shard: str, at: int) -> None:
    dataset.store.write(shard, dataset.store.read(shard)[:at])


def swap(dataset: Dataset, first: str, second: str) -> None:
    content = dataset.store.read(first)
    dataset.store.write(first, dataset.store.read(second))
    dataset.store.write(second, content)


SPOILS: dict[str, Callable[[Dataset, int, str], None]] = {
    "cut-shard": lambda dataset, at, shard: cut(dataset, shard, at),
    "missing-shard": lambda dataset, at, shard: dataset.store.delete(shard),
    "zeros": lambda dataset, at, shard: small.overwrite(dataset.store, shard, at - 512, bytes(1024)),
    "damaged-header": lambda dataset, at, shard: small.overwrite(dataset.store, shard, at - 512 + 120, b"\x01"),
    "damaged-payload": lambda dataset, at, shard: small.overwrite(
        dataset.store, shard, at + 3, b"\xaa\xbb\xcc\xdd\xee"
    ),
}


@pytest.mark.parametrize("kind", SPOILS)
def test_each_kind_of_damage_is_named_with_its_sample(dataset: Dataset, kind: str) -> None:
    sample = 30
    shard = dataset.shards[dataset.index.shard_of(sample)].name
    key = dataset.index.key_of(sample)
    intact = next(number for number in range(dataset.num_shards) if shard != dataset.shards[number].name)
    untouched = dataset.index.samples_of(intact).start
    SPOILS[kind](dataset, dataset.index.members_of(sample)[1].offset, shard)
    with pytest.raises(DamageError) as raised:
        read_samples(dataset, [sample])
    assert raised.value.damage == (Damage(shard, key, kind),)
    assert all(word in str(raised.value) for word in (dataset.address, shard, key, kind, "verify it"))
    assert read_samples(dataset, [untouched])[0]["png"] == small.items(100)[untouched].data


def test_swapped_shards_give_no_wrong_bytes(dataset: Dataset) -> None:
    swap(dataset, dataset.shards[0].name, dataset.shards[1].name)
    for sample in (*dataset.index.samples_of(0), *dataset.index.samples_of(1)):
        with pytest.raises(DamageError):
            read_samples(dataset, [sample])


def test_a_shard_of_another_packing_gives_no_wrong_bytes(dataset: Dataset, tmp_path: Path) -> None:
    other = small.make(tmp_path / "other", 100, seed=1)
    dataset.store.write("shard-000000.tar", other.store.read("shard-000000.tar"))
    for sample in dataset.index.samples_of(0):
        with pytest.raises(DamageError):
            read_samples(dataset, [sample])


def test_every_flip_in_a_header_is_noticed(dataset: Dataset) -> None:
    (member, *_) = dataset.index.members_of(0)
    shard = dataset.store.read("shard-000000.tar")
    header, payload = shard[member.offset - 512 : member.offset], shard[member.offset : member.offset + member.size]
    expected = {"name": f".{member.extension}", "size": member.size, "crc32": member.crc32}
    assert check_member(header, payload, **expected) is None
    for at in range(512):
        for flip in range(1, 256):
            spoilt = header[:at] + bytes([header[at] ^ flip]) + header[at + 1 :]
            assert check_member(spoilt, payload, **expected) is not None, (at, flip)


@given(position=st.integers(0, 10**9), flip=st.integers(1, 255))
@example(position=148, flip=57)  # a digit of the checksum becomes a tab
@settings(max_examples=100, deadline=None)
def test_a_flipped_byte_anywhere_is_noticed_or_belongs_to_no_sample(tmp_path_factory, position, flip) -> None:
    dataset = small.make(tmp_path_factory.mktemp("set"), 12, shard_bytes=10**6)
    content = dataset.store.read("shard-000000.tar")
    at = position % len(content)
    small.overwrite(dataset.store, "shard-000000.tar", at, bytes([content[at] ^ flip]))
    expected = [item.data for item in small.items(12)]
    for sample in range(12):
        spans = [(m.offset - 512, m.offset + m.size) for m in dataset.index.members_of(sample)]
        if any(start <= at < stop for start, stop in spans):
            with pytest.raises(DamageError):
                read_samples(dataset, [sample])
        else:
            assert read_samples(dataset, [sample])[0]["png"] == expected[sample]


def test_bytes_spoilt_on_the_way_are_read_again_not_called_damage(faulty_s3, s3_address: str) -> None:
    policy = RetryPolicy(base_s=0.001, cap_s=0.01, read_timeout_s=0.5)
    made = small.make(s3_address, 60)
    dataset = Dataset.open(open_store(s3_address, policy=policy))
    _ = dataset.index
    turn = iter(range(10**6))
    faults = ["flip", "reset", "503", "short", None, None, None]
    faulty_s3.fault = lambda method, path, number: faults[next(turn) % 7] if path.endswith(".tar") else None
    samples = read_samples(dataset, range(made.num_samples))
    assert [sample["png"] for sample in samples] == [item.data for item in small.items(60)]


@pytest.mark.parametrize("name", ["manifest.json", "samples.parquet"])
def test_a_manifest_or_index_spoilt_on_the_way_is_read_again(faulty_s3, s3_address: str, name: str) -> None:
    made = small.make(s3_address, 20)
    spoilt: list[int] = []

    def flip_once(method: str, path: str, number: int) -> str | None:
        if not path.endswith(name) or spoilt:
            return None
        spoilt.append(number)
        return "flip"

    faulty_s3.fault = flip_once
    dataset = Dataset.open(s3_address)
    assert dataset.digest == made.digest
    assert read_samples(dataset, [7])[0]["png"] == small.items(20)[7].data
    assert len(spoilt) == 1
