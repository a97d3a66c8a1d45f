"""The cache on a host's disk: it saves reads, and whatever happens to it, no byte that it gives is wrong."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import random
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import noise_datasets
import pytest
import small_datasets as small
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.data.damage import Damage, DamageError
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.read import cache as cache_module
from trainplane.data.read import cache_dir
from trainplane.data.read.cache_dir import CacheConfig, CacheDir, CachedShard, shard_file, shards_to_evict
from trainplane.data.read.fetch import Fetcher, read_samples
from trainplane.errors import UserError
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob

PLENTY = 1 << 30
COUNT = 240


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return small.make(tmp_path / "set", COUNT)


@pytest.fixture
def config(tmp_path: Path) -> CacheConfig:
    return CacheConfig(str(tmp_path / "cache"), PLENTY)


@pytest.fixture(autouse=True)
def nothing_was_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "_logged", set())


def reader(dataset: Dataset, config: CacheConfig | None) -> tuple[Dataset, small.CountingStore]:
    """The dataset as another process would open it, and the store that counts its reads."""
    store = small.CountingStore(Path(dataset.address))
    return Dataset.open(store, cache=config), store


def epoch(dataset: Dataset, *, number: int = 0, rank: int = 0, world: int = 1) -> list[bytes]:
    """One rank's samples of an epoch, with little memory, so that each is requested once."""
    order = dataset.order(seed=1, global_batch=8)
    slots = order.slots(rank=rank, world=world)
    first = number * order.steps_per_epoch
    steps = ((step, order.visits(step, slots)) for step in range(first, first + order.steps_per_epoch))
    samples = []
    with Fetcher(dataset, cache_bytes=20_000) as fetcher:
        for visited in fetcher.walk(steps):
            for _, members in visited:
                assert not isinstance(members, Damage)
                samples.append(members["png"])
    return samples


def originals() -> set[bytes]:
    return {item.data for item in small.items(COUNT)}


def files_of(config: CacheConfig) -> list[Path]:
    return sorted((Path(config.folder) / cache_dir.FOLDER).glob("*.shard"))


def size_of(config: CacheConfig) -> int:
    return sum(file.stat().st_size for file in files_of(config))


def grow_old(config: CacheConfig, *, by_s: float = 2 * cache_dir.IN_USE_S) -> None:
    for file in files_of(config):
        os.utime(file, (time.time() - by_s, time.time() - by_s))


class TestReading:
    def test_a_second_epoch_and_a_second_job_read_nothing_from_the_store(self, dataset, config) -> None:
        first, store = reader(dataset, config)
        assert set(epoch(first)) == originals()
        assert store.bytes_read <= dataset.bytes
        second, store = reader(dataset, config)
        assert set(epoch(second, number=1)) == originals()
        assert epoch(second) == epoch(first)
        assert store.reads == []

    def test_ranks_of_a_host_share_it(self, dataset, config) -> None:
        for number, rank in enumerate((0, 1)):
            one, store = reader(dataset, config)
            epoch(one, rank=rank, world=2)
            assert 0 < store.bytes_read < 0.8 * dataset.bytes, number
        # In the next epoch each rank meets samples that the other has read.
        for rank in (0, 1):
            one, store = reader(dataset, config)
            assert set(epoch(one, rank=rank, world=2, number=1)) <= originals()
            assert store.bytes_read < 0.1 * dataset.bytes

    def test_a_dataset_kept_in_memory_is_handed_to_the_cache_once(self, dataset, config, monkeypatch) -> None:
        written = []
        monkeypatch.setattr(cache_module.ShardCache, "write", lambda self, shard, start, data: written.append(start))
        one, _ = reader(dataset, config)
        order = dataset.order(seed=1, global_batch=8)
        with Fetcher(one) as fetcher:
            for _ in fetcher.walk((step, order.visits(step, range(8))) for step in range(3 * order.steps_per_epoch)):
                pass
        assert len(written) == COUNT

    def test_wrong_bytes_on_the_disk_are_noticed_read_again_and_mended(self, dataset, config) -> None:
        epoch(reader(dataset, config)[0])
        chance = random.Random(0)
        for file in files_of(config):
            content = bytearray(file.read_bytes())
            for _ in range(20):
                content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
            file.write_bytes(content)
        one, store = reader(dataset, config)
        assert set(epoch(one)) == originals()
        assert 0 < store.bytes_read < dataset.bytes
        one, store = reader(dataset, config)
        assert set(epoch(one)) == originals()
        assert store.reads == []

    @pytest.mark.parametrize("spoil", ["half a sample", "cut", "emptied", "another shard's", "noise"])
    def test_the_bytes_are_right_with_any_content_of_its_files(self, dataset, config, spoil: str) -> None:
        epoch(reader(dataset, config)[0])
        first, second, *_ = files_of(config)
        content = first.read_bytes()
        first.write_bytes(
            {
                "half a sample": content[:5000] + bytes(len(content) - 5000),
                "cut": content[: len(content) // 2],
                "emptied": b"",
                "another shard's": second.read_bytes(),
                "noise": random.Random(1).randbytes(len(content)),
            }[spoil]
        )
        assert set(epoch(reader(dataset, config)[0])) == originals()

    def test_damage_in_the_store_is_never_kept(self, dataset, config) -> None:
        shard, key = small.spoil_sample(dataset, 30)
        for _ in range(2):
            with pytest.raises(DamageError) as raised:
                read_samples(reader(dataset, config)[0], range(COUNT))
            assert [(damage.shard, damage.key) for damage in raised.value.damage] == [(shard, key)]

    def test_what_was_read_survives_the_loss_of_the_store(self, dataset, config) -> None:
        epoch(reader(dataset, config)[0])
        one, _ = reader(dataset, config)
        _ = one.index
        for shard in dataset.shards:
            dataset.store.delete(shard.name)
        assert set(epoch(one)) == originals()

    def test_a_changed_dataset_reads_nothing_of_the_old_one(self, dataset, config, tmp_path: Path) -> None:
        epoch(reader(dataset, config)[0])
        other = small.make(tmp_path / "other", COUNT, seed=1)
        one, _ = reader(other, config)
        assert set(epoch(one)) == {item.data for item in small.items(COUNT, seed=1)}

    def test_nothing_is_held_in_shared_memory_or_open(self, dataset, config) -> None:
        shared = Path("/dev/shm")
        before = set(os.listdir(shared)), len(os.listdir("/proc/self/fd"))
        epoch(reader(dataset, config)[0])
        assert len(os.listdir("/proc/self/fd")) <= before[1]
        assert not [name for name in set(os.listdir(shared)) - before[0] if "trainplane" in name or "shard" in name]


CACHED = st.builds(
    CachedShard,
    name=st.builds(lambda own, n: f"{own}-{n}", st.sampled_from("abc"), st.integers(0, 10**6)),
    size=st.integers(1, 1000),
    on_disk=st.just(0),
    used_s=st.floats(0, 10_000),
)


class TestCapacity:
    @given(
        kept=st.lists(CACHED, unique_by=lambda one: one.name),
        excess=st.integers(-500, 5000),
        own=st.sampled_from("abc"),
    )
    def test_the_oldest_go_as_far_as_needed_and_never_what_is_in_use_or_of_the_same_dataset(
        self, kept: list[CachedShard], excess: int, own: str
    ) -> None:
        now_s = 10_000.0
        evicted = shards_to_evict(kept, excess=excess, own=own, now_s=now_s)
        may_go = [one for one in kept if one.name[0] != own and now_s - one.used_s >= cache_dir.IN_USE_S]
        assert set(evicted) <= set(may_go)
        assert evicted == sorted(evicted, key=lambda one: one.used_s)
        left = [one for one in may_go if one not in evicted]
        assert all(stays.used_s >= one.used_s for stays in left for one in evicted)
        freed = sum(one.size for one in evicted)
        assert freed >= excess or not left
        if evicted:
            assert freed - evicted[-1].size < excess

    def test_it_never_grows_beyond_its_limit_and_serves_what_fits(self, dataset, tmp_path: Path) -> None:
        config = CacheConfig(str(tmp_path / "cache"), dataset.bytes // 2)
        for number in range(4):
            one, store = reader(dataset, config)
            assert set(epoch(one, number=number)) == originals()
            assert 0 < size_of(config) <= config.limit_bytes
        # Keeping what fits halves what is read; throwing out the oldest would find nothing again.
        assert store.bytes_read < 0.7 * dataset.bytes

    def test_another_dataset_takes_the_place_of_what_was_used_longest_ago(self, dataset, tmp_path: Path) -> None:
        config = CacheConfig(str(tmp_path / "cache"), dataset.bytes)
        epoch(reader(dataset, config)[0])
        old = files_of(config)
        other = small.make(tmp_path / "other", COUNT // 4, seed=1)
        epoch(reader(other, config)[0])
        assert files_of(config) == old  # in use a moment ago
        grow_old(config)
        os.utime(old[0])
        epoch(reader(other, config)[0])
        left = set(files_of(config))
        assert old[0] in left
        assert {file.name for file in left} >= {shard_file(other.digest, shard.sha256) for shard in other.shards}
        assert 0 < len(set(old) - left) < len(old)
        assert size_of(config) <= config.limit_bytes

    def test_reading_counts_as_use(self, dataset, config) -> None:
        epoch(reader(dataset, config)[0])
        grow_old(config)
        epoch(reader(dataset, config)[0])
        assert all(time.time() - file.stat().st_mtime < 60 for file in files_of(config))

    def test_a_lower_limit_holds_from_the_next_opening(self, dataset, config) -> None:
        epoch(reader(dataset, config)[0])
        grow_old(config)
        CacheDir(CacheConfig(config.folder, dataset.bytes // 2))
        assert 0 < size_of(config) <= dataset.bytes // 2

    def test_files_of_others_are_never_touched(self, dataset, tmp_path: Path) -> None:
        config = CacheConfig(str(tmp_path), dataset.bytes // 3)
        folder = tmp_path / cache_dir.FOLDER
        CacheDir(config)
        (tmp_path / "mine.txt").write_text("precious")
        name = shard_file("0" * 64, "1" * 64)
        others = [tmp_path / "mine.txt", folder / "notes.shard", folder / "unfinished-report", folder / f"{name}.bak"]
        for file in others:
            file.write_text("precious")
        (folder / name).symlink_to(tmp_path / "mine.txt")
        (folder / shard_file("0" * 64, "2" * 64)).mkdir()
        ours = folder / shard_file("0" * 64, "3" * 64)
        ours.write_bytes(b"")
        os.truncate(ours, config.limit_bytes)
        grow_old(config)
        epoch(reader(dataset, config)[0])
        assert not ours.exists()
        assert all(file.read_text() == "precious" for file in [*others, folder / name])
        assert (folder / shard_file("0" * 64, "2" * 64)).is_dir()

    def test_a_folder_that_is_not_ours_is_refused(self, dataset, config) -> None:
        folder = Path(config.folder) / cache_dir.FOLDER
        folder.mkdir(parents=True)
        (folder / "thesis.tex").write_text("precious")
        with pytest.raises(UserError, match=r"thesis\.tex.*data\.cache_dir"):
            epoch(reader(dataset, config)[0])
        assert (folder / "thesis.tex").read_text() == "precious"

    def test_it_is_tagged_for_backup_programs_and_private(self, config) -> None:
        folder = CacheDir(config).folder
        assert (folder / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
        assert folder.stat().st_mode & 0o077 == 0

    def test_what_a_killed_creator_left_is_cleared_away(self, dataset, config) -> None:
        folder = CacheDir(config).folder
        (folder / "unfinished-0123456789abcdef").write_bytes(b"x")
        epoch(reader(dataset, config)[0])
        assert not list(folder.glob("unfinished-*"))

    def test_a_lock_that_is_held_for_long_stops_nothing(self, dataset, config, monkeypatch) -> None:
        monkeypatch.setattr(cache_dir, "LOCK_WAIT_S", 0.05)
        directory = CacheDir(config)
        with open(directory.folder / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            assert set(epoch(reader(dataset, config)[0])) == originals()
            assert files_of(config) == []


class TestUsers:
    def test_loader_workers_read_from_it(self, dataset, config) -> None:
        def batches(workers: int) -> list[list[int]]:
            one = Dataset.open(dataset.address, cache=config)
            with Loader(
                one, transform=small.number_and_chance, seed=1, global_batch=8, workers=workers, cache_bytes=20_000
            ) as loader:
                return [batch["sum"].tolist() for _, batch in loader.batches(start=0, stop=loader.steps_per_epoch)]

        first = batches(0)
        for shard in dataset.shards:
            dataset.store.delete(shard.name)
        assert batches(2) == first

    def test_a_run_reads_its_shards_from_it_the_second_time(self, tmp_path: Path) -> None:
        data = noise_datasets.make(tmp_path / "data")
        settings = build(
            TinyConfig,
            {
                "name": "tiny",
                "data": {"train": "t", "val": "v", "cache_dir": str(tmp_path / "cache")},
                "train": {"steps": 4, "global_batch": 4},
            },
        )

        def trained(checkpoints: str) -> str:
            addresses = str(data / "train"), str(data / "val"), str(tmp_path / checkpoints)
            return run(TrainJob(settings.model_dump(mode="json"), *addresses)).state_digest

        first = trained("first")
        held_out = Dataset.open(str(data / "val"))
        for shard in held_out.shards:
            held_out.store.delete(shard.name)
        assert trained("second") == first


class TestTrouble:
    def test_an_unusable_folder_is_logged_once_and_training_continues(self, dataset, tmp_path, caplog) -> None:
        (tmp_path / "file").write_text("")
        config = CacheConfig(str(tmp_path / "file" / "below"), PLENTY)
        for _ in range(3):
            assert set(epoch(reader(dataset, config)[0])) == originals()
        assert [record.getMessage() for record in caplog.records if "cache" in record.getMessage()] == [
            f"cache at {config.folder} stops caching (Not a directory); training continues without it"
        ]

    def test_a_nearly_full_disk_is_left_its_rest(self, dataset, config, monkeypatch, caplog) -> None:
        monkeypatch.setattr(cache_dir, "LEFT_FREE_BYTES", 1 << 60)
        caplog.set_level("INFO", logger="trainplane.data.read.cache")
        for _ in range(2):
            assert set(epoch(reader(dataset, config)[0])) == originals()
        assert files_of(config) == []
        assert len([record for record in caplog.records if "is full" in record.getMessage()]) == 1

    def test_a_disk_that_refuses_in_the_middle_of_a_shard_stops_the_cache_and_nothing_else(
        self, dataset, config
    ) -> None:
        epoch(reader(dataset, config)[0])
        for file in files_of(config):  # as long as before, all holes
            size = file.stat().st_size
            file.write_bytes(b"")
            os.truncate(file, size)
        warnings = in_child(read_with_small_files, dataset.address, config)
        assert warnings == ["stops caching (File too large); training continues without it"]
        # The writes that were cut short are noticed.
        assert set(epoch(reader(dataset, config)[0])) == originals()


def in_child(target, *arguments: object) -> list[str]:
    """What the target returns, from a process of its own."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        return pool.apply(target, arguments)


def read_with_small_files(address: str, config: CacheConfig) -> list[str]:
    """Two epochs where the system refuses to write beyond 10,000 bytes of any file, as on a full disk."""
    warnings: list[str] = []
    cache_module.log.warning = lambda text: warnings.append(text.partition(f"{config.folder} ")[2])  # type: ignore
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    for number in range(2):
        assert set(epoch(Dataset.open(address, cache=config), number=number)) == originals()
    return warnings


def read_for_ever(address: str, config: CacheConfig, seed: int, finished: object) -> None:
    for number in range(seed, 10**6):
        samples = epoch(Dataset.open(address, cache=config), number=number)
        if set(samples) == originals() and len(samples) == COUNT:
            finished.put(number)  # type: ignore[attr-defined]
        else:
            finished.put("wrong bytes")  # type: ignore[attr-defined]


@pytest.fixture
def started() -> Iterator[list[multiprocessing.Process]]:
    processes: list[multiprocessing.Process] = []
    yield processes
    for process in processes:
        process.kill()
        process.join()


@pytest.mark.parametrize("share", [1.1, 0.5])
def test_processes_that_are_killed_in_mid_write_leave_no_wrong_bytes_and_no_litter(
    dataset, tmp_path: Path, started, share: float
) -> None:
    """24 readers of one cache, killed at random moments while they fill it; what the next one reads is right."""
    config = CacheConfig(str(tmp_path / "cache"), int(dataset.bytes * share))
    context = multiprocessing.get_context("fork")
    finished, chance = context.SimpleQueue(), random.Random(2)
    for generation in range(8):
        if generation % 3 == 2:  # filling it again takes more writing
            for file in files_of(config):
                file.unlink()
        group = [context.Process(target=read_for_ever, args=(dataset.address, config, n, finished)) for n in range(3)]
        started.extend(group)
        for process in group:
            process.start()
        for process in group:
            time.sleep(chance.random() * 0.08)
            os.kill(process.pid, signal.SIGKILL)
        for process in group:
            process.join()
        assert set(epoch(reader(dataset, config)[0])) == originals()
        assert size_of(config) <= config.limit_bytes
    assert not list((Path(config.folder) / cache_dir.FOLDER).glob("unfinished-*"))


def test_processes_side_by_side_fill_one_cache_and_all_read_right(dataset, config, started) -> None:
    context = multiprocessing.get_context("fork")
    finished = context.SimpleQueue()
    started.extend(context.Process(target=read_for_ever, args=(dataset.address, config, n, finished)) for n in range(4))
    for process in started:
        process.start()
    assert "wrong bytes" not in [finished.get() for _ in range(8)]
    one, store = reader(dataset, config)
    assert set(epoch(one)) == originals()
    assert store.reads == []
