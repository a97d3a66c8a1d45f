"""A packing killed anywhere and run again, by any executor, ends on the same bytes and does no work twice."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import boto3
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.data.manifest import Dataset, SkippedFile
from trainplane.data.pack.destination import ListingRange, PackedRange, ShardWriter
from trainplane.data.pack.executor import Entry, LocalExecutor, PackExecutor, prepare, store_shard
from trainplane.data.pack.lease import PackLease
from trainplane.data.pack.pack import pack
from trainplane.data.pack.shard_builder import PackItem
from trainplane.data.pack.sharding import Outcome, ShardPlan
from trainplane.errors import UserError
from trainplane.storage import Store, open_store
from trainplane.storage.folder import FolderStore
from trainplane.testing.fault_proxy import FaultProxy

SHARD_BYTES = 30_000


@dataclass(frozen=True)
class Photo:
    """A sample that counts how often it is read; every seventh is damaged, every ninth belongs to another split."""

    number: int
    bytes: int
    version: int = 0

    read = 0

    @property
    def identity(self) -> str:
        return f"{self.number} {self.bytes} {self.version}"

    @property
    def size(self) -> int:
        return self.bytes

    def item(self) -> PackItem | SkippedFile | None:
        Photo.read += 1
        if self.number % 7 == 3:
            return SkippedFile(f"{self.number}.jpg", "damaged: it is what it is")
        if self.number % 9 == 5:
            return None
        data = np.random.default_rng([self.number, self.version]).bytes(self.bytes)
        return PackItem(f"{self.number}.jpg", data, "jpg")

    def portable(self) -> Photo:
        return self


def photos(count: int = 60) -> list[Entry]:
    chance = random.Random(5)
    listed: list[Entry] = [Photo(number, chance.randrange(500, 9000)) for number in range(count)]
    return [SkippedFile("link", "link to nothing"), *listed]


def pack_to(dest: Store | Path | str, listed: Sequence[Entry] | None = None, **changed: Any) -> Dataset:
    options: dict[str, Any] = {"name": "tiny", "split": "train", "shard_bytes": SHARD_BYTES, "how": {}}
    store = dest if isinstance(dest, Store) else str(dest)
    return pack(photos() if listed is None else listed, store, **(options | changed))


def content(store: Store | Path) -> dict[str, bytes]:
    """Everything at a place, unfinished files of a folder too."""
    if isinstance(store, Path):
        return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    return {entry.key: store.read(entry.key) for entry in store.list()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    assert pack_to(folder).num_shards >= 7
    return content(folder)


class Tardy(PackExecutor):
    """Does the work as late as it can, and what is under way in any order."""

    def __init__(self, units: int, shards: int, seed: int) -> None:
        self.max_units, self.max_shards = units, shards
        self._chance = random.Random(seed)
        self._done: dict[int, Any] = {}
        self._work: dict[int, Any] = {}
        self._number = 0

    def _begin(self, work: Any) -> int:
        self._number += 1
        self._work[self._number] = work
        return self._number

    def _result(self, handle: int) -> Any:
        while handle in self._work:
            chosen = self._chance.choice(list(self._work))
            self._done[chosen] = self._work.pop(chosen)()
        return self._done[handle]

    def start_unit(self, entries: Sequence[Entry]) -> int:
        return self._begin(lambda: prepare(entries))

    def outcomes(self, unit: int) -> Sequence[Outcome]:
        outcomes: Sequence[Outcome] = self._result(unit)[0]
        return outcomes

    def start_shard(self, writer: ShardWriter, plan: ShardPlan, entries: ListingRange, units: Mapping[int, int]) -> int:
        handles = dict(units)
        return self._begin(
            lambda: store_shard(
                writer, plan, entries, {number: self._result(unit)[1] for number, unit in handles.items()}
            )
        )

    def stored(self, shard: int) -> PackedRange:
        packed: PackedRange = self._result(shard)
        return packed

    def stop(self) -> None:
        self._work.clear()


@given(units=st.integers(1, 6), shards=st.integers(1, 5), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_any_executor_makes_the_same_bytes(tmp_path_factory, whole, units: int, shards: int, seed: int) -> None:
    folder = tmp_path_factory.mktemp("set")
    pack_to(folder, executor=Tardy(units, shards, seed))
    assert content(folder) == whole


class Mortal(FolderStore):
    """Kills its process at one of its writes: before it, in the middle of it, or after it."""

    def __init__(self, root: Path, at: int, where: str) -> None:
        super().__init__(root)
        self._at, self._where, self._count = at, where, 0

    def _dies(self, where: str) -> None:
        if self._where == where and self._count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def open_writer(self, key: str) -> Iterator[BinaryIO]:
        self._count += 1
        self._dies("before")
        with super().open_writer(key) as file:
            yield file
            file.flush()
            self._dies("inside")
        self._dies("after")

    def create(self, key: str, data: bytes) -> bool:
        self._count += 1
        self._dies("before")
        if self._where == "inside" and self._count == self._at:
            os.link = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
        created = super().create(key, data)
        self._dies("after")
        return created


def killed(work: Any) -> int | None:
    """Do `work` in a process of its own; how it ended."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def executor_named(name: str) -> PackExecutor:
    return LocalExecutor() if name == "local" else Tardy(3, 3, 1)


@pytest.mark.parametrize(
    ("where", "executor", "every"),
    [
        ("inside", "local", 1),
        ("before", "local", 3),
        ("after", "local", 3),
        ("inside", "tardy", 3),
        ("after", "tardy", 4),
    ],
)
def test_killed_at_any_write_it_goes_on_to_the_same_bytes(tmp_path: Path, whole, where, executor, every) -> None:
    moments = 0
    for at in range(1, 28, every):
        folder = tmp_path / str(at)
        ended = killed(
            lambda at=at, folder=folder: pack_to(Mortal(folder, at, where), executor=executor_named(executor))
        )
        assert ended in (0, -signal.SIGKILL)
        moments += ended != 0
        stored = [name for name in content(folder) if name.startswith("packing.shard-")]
        Photo.read = 0
        pack_to(folder, executor=executor_named(executor))
        assert content(folder) == whole, at
        # Each shard with a note is worth five photos or so that are not read again.
        assert Photo.read <= 60 - 3 * len(stored), at
    assert moments >= 15 // every


def test_killed_time_and_again_it_still_ends_on_the_same_bytes(tmp_path: Path, whole) -> None:
    chance = random.Random(3)
    for _ in range(12):
        work = Mortal(tmp_path, chance.randrange(2, 7), chance.choice(["before", "inside", "after"]))
        if killed(lambda work=work: pack_to(work, executor=Tardy(2, 3, 1))) == 0:
            break
    pack_to(tmp_path)
    assert content(tmp_path) == whole


def test_stored_shards_are_neither_read_nor_written_again(tmp_path: Path) -> None:
    folder = tmp_path / "set"

    def interrupted() -> Iterator[Entry]:
        yield from photos(300)[:200]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack_to(folder, interrupted())
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.tar")}
    assert len(before) >= 20
    Photo.read = 0
    pack_to(folder, photos(300))
    assert Photo.read < 300 - 4 * len(before)
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before
    pack_to(tmp_path / "fresh", photos(300))
    assert content(folder) == content(tmp_path / "fresh")


@pytest.mark.parametrize(
    "change",
    ["a photo before them is another", "one is gone", "one came first", "other options", "a shard was spoilt"],
)
def test_what_an_earlier_packing_stored_of_something_else_is_not_believed(tmp_path: Path, change: str) -> None:
    folder = tmp_path / "set"
    assert killed(lambda: pack_to(Mortal(folder, 14, "before"))) == -signal.SIGKILL
    assert len(list(folder.glob("shard-*.tar"))) >= 4
    listed, options = photos(), {}
    if change == "a photo before them is another":
        listed[1] = Photo(0, 4000, version=1)
    elif change == "one is gone":
        del listed[2]
    elif change == "one came first":
        listed.insert(0, Photo(1000, 100))
    elif change == "other options":
        options = {"how": {"quality": 3}}
    else:
        (folder / "shard-000001.tar").write_bytes(b"short")
    pack_to(folder, listed, **options)
    pack_to(tmp_path / "fresh", listed, **options)
    assert content(folder) == content(tmp_path / "fresh")


def test_shards_of_an_unfinished_packing_that_are_too_many_go(tmp_path: Path) -> None:
    assert killed(lambda: pack_to(Mortal(tmp_path / "set", 14, "before"))) == -signal.SIGKILL
    pack_to(tmp_path / "set", shard_bytes=10**6)
    pack_to(tmp_path / "fresh", shard_bytes=10**6)
    assert content(tmp_path / "set") == content(tmp_path / "fresh")


def test_one_process_at_a_time_packs_to_a_place(tmp_path: Path) -> None:
    lease = PackLease(open_store(str(tmp_path)))
    lease.acquire()
    before = content(tmp_path)
    with pytest.raises(UserError, match=f"is running there .process {os.getpid()} on"):
        pack_to(tmp_path)
    assert content(tmp_path) == before
    lease.release(finished=False)
    pack_to(tmp_path)


def test_files_that_only_look_like_notes_stop_nothing_and_stay(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for key in ("packing.shard-x.json", "packing.shard-000000.json.orig", "packing.txt"):
        store.write(key, b"{}")
    pack_to(tmp_path)
    assert [entry.key for entry in store.list("packing.")] == [
        "packing.shard-000000.json.orig",
        "packing.shard-x.json",
        "packing.txt",
    ]


def uploads_in(address: str) -> set[str]:
    bucket = address.removeprefix("s3://").partition("/")[0]
    uploads = boto3.client("s3").list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return {upload["Key"] for upload in uploads}


def test_uploads_of_a_killed_packing_are_aborted_and_no_others(s3_address: str, faulty_s3: FaultProxy) -> None:
    chance = np.random.default_rng(1)
    listed = [PackItem(f"{number}.png", chance.bytes(6_000_000), "png") for number in range(8)]
    options: dict[str, Any] = {"name": "large", "split": "all", "shard_bytes": 20_000_000, "how": {}}
    bucket, _, prefix = s3_address.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    foreign = {f"{prefix}-2/shard-000001.tar", f"{prefix}/deeper/shard-000001.tar", f"{prefix}/holiday.tar"}
    for key in foreign:
        client.create_multipart_upload(Bucket=bucket, Key=key)
    process = multiprocessing.get_context("fork").Process(target=lambda: pack(listed, s3_address, **options))

    def dies_in_the_second_shard(method: str, path: str, number: int) -> None:
        if "shard-000001.tar" in path and "partNumber=2" in path and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)

    faulty_s3.fault = dies_in_the_second_shard
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    faulty_s3.fault = lambda method, path, number: None
    assert uploads_in(s3_address) == foreign | {f"{prefix}/shard-000001.tar"}
    dataset = pack(listed, s3_address, **options)
    assert dataset.num_samples == 8
    assert uploads_in(s3_address) == foreign
    assert {entry.key for entry in open_store(s3_address).list()} == {
        *(shard.name for shard in dataset.shards), "samples.parquet", "manifest.json"
    }  # fmt: skip


def test_uploads_are_left_alone_where_no_packing_was_killed(s3_address: str) -> None:
    bucket, _, prefix = s3_address.removeprefix("s3://").partition("/")
    key = f"{prefix}/shard-000000.tar"
    boto3.client("s3").create_multipart_upload(Bucket=bucket, Key=key)
    pack_to(s3_address)
    assert uploads_in(s3_address) == {key}
