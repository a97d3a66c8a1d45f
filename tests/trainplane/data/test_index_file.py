"""The index of a large dataset is a file that all processes of a host map."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainplane.data.index import Index, IndexWriter, Member, Row
from trainplane.data.index_file import IndexFolder
from trainplane.data.shard import Shard

DIGEST = "ab" * 32
SAMPLE_BYTES = 2048


def rows_of(shard: int, count: int) -> list[Row]:
    return [
        Row(
            f'{shard}/"{number}"\n\u00e9',
            (
                Member("jpg", 512 + number * SAMPLE_BYTES, 100, number),
                Member("json", 1536 + number * SAMPLE_BYTES, 9, 7),
            ),
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def dataset() -> tuple[bytes, list[Shard]]:
    writer = IndexWriter()
    sizes = [40, 25]
    for number, size in enumerate(sizes):
        writer.add(f"shard-{number:06d}.tar", rows_of(number, size))
    shards = [Shard(f"shard-{number:06d}.tar", size * SAMPLE_BYTES, size, "") for number, size in enumerate(sizes)]
    return writer.finish(), shards


class Object:
    """The object in the store, and how often it was read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.readings = 0

    def read(self, parse: Callable[[bytes], Any]) -> Any:
        self.readings += 1
        return parse(self.data)


def test_the_mapped_index_says_what_the_parsed_one_says_and_is_read_once(
    tmp_path: Path, dataset: tuple[bytes, list[Shard]]
) -> None:
    data, shards = dataset
    stored = Object(data)
    first = Index.shared(str(tmp_path), DIGEST, shards=shards, read=stored.read)
    second = Index.shared(str(tmp_path), DIGEST, shards=shards, read=stored.read)
    assert stored.readings == 1
    parsed = Index.parse(data, shards=shards)
    for mapped in (first, second):
        for number in (*range(65), 3):
            assert mapped.key_of(number) == parsed.key_of(number)
            assert mapped.members_of(number) == parsed.members_of(number)
        assert mapped.span(38, 40) == parsed.span(38, 40)
        assert [mapped.shard_of(number) for number in (39, 40)] == [0, 1]
    assert parsed.members_of(41) == rows_of(1, 25)[1].members
    # Nothing but the file, and the lock.
    assert len(list(tmp_path.glob("*/*"))) == 2


def test_shards_of_4_gib_have_positions_of_64_bits(tmp_path: Path) -> None:
    row = Row("large", (Member("jpg", 512, 2**33, 1), Member("json", 2**34, 5, 2)))
    writer = IndexWriter()
    writer.add("shard-000000.tar", [row])
    shards = [Shard("shard-000000.tar", 2**34 + 5, 1, "")]
    index = Index.shared(str(tmp_path), DIGEST, shards=shards, read=Object(writer.finish()).read)
    assert index.members_of(0) == row.members
    assert index.span(0, 1) == (0, 2**34 + 5)


def test_bytes_that_are_no_index_leave_nothing_behind(tmp_path: Path, dataset: tuple[bytes, list[Shard]]) -> None:
    data, shards = dataset
    for wrong, of in ((data[:-9], shards), (b"x" * 100, shards), (data, shards[:1])):
        with pytest.raises(ValueError, match=r"Parquet|manifest"):
            Index.shared(str(tmp_path), DIGEST, shards=of, read=Object(wrong).read)
    assert [path.name for path in tmp_path.glob("*/*")] == ["lock"]


def test_a_file_of_another_release_or_cut_short_is_written_again(
    tmp_path: Path, dataset: tuple[bytes, list[Shard]]
) -> None:
    data, shards = dataset
    Index.shared(str(tmp_path), DIGEST, shards=shards, read=Object(data).read)
    (path,) = tmp_path.glob(f"*/{DIGEST}*")
    whole = path.read_bytes()
    for spoiled in (whole[:-8] + b"TPINDEX0", whole[:-100], b""):
        path.write_bytes(spoiled)
        stored = Object(data)
        assert Index.shared(str(tmp_path), DIGEST, shards=shards, read=stored.read).key_of(64)
        assert stored.readings == 1
        assert path.read_bytes() == whole


def test_a_folder_that_others_may_write_to_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / f"trainplane-index-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(PermissionError, match="others may write"):
        IndexFolder(str(tmp_path))
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(PermissionError, match="another account"):
        IndexFolder(str(tmp_path))


_READER = """
import sys, time
from trainplane.data.index import Index
from trainplane.data.shard import Shard
folder, source, log, pause = sys.argv[1:]
shards = [Shard("shard-000000.tar", 40 * 2048, 40, ""), Shard("shard-000001.tar", 25 * 2048, 25, "")]
def read(parse):
    with open(log, "a") as file:
        file.write("read\\n")
    time.sleep(float(pause))
    return parse(open(source, "rb").read())
print(Index.shared(folder, "ab" * 32, shards=shards, read=read).key_of(64)[:4])
"""


def test_processes_at_once_read_it_once_and_a_killed_one_blocks_nobody(
    tmp_path: Path, dataset: tuple[bytes, list[Shard]]
) -> None:
    source, log, folder = tmp_path / "samples.parquet", tmp_path / "log", tmp_path / "host"
    source.write_bytes(dataset[0])

    def start(pause: float) -> subprocess.Popen[str]:
        words = [sys.executable, "-c", _READER, str(folder), str(source), str(log), str(pause)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    # The first one is killed while it reads, under the lock.
    with start(60) as killed:
        deadline = time.monotonic() + 60
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    readers = [start(0.2) for _ in range(3)]
    assert [reader.communicate(timeout=60)[0] for reader in readers] == ['1/"2\n'] * 3
    assert log.read_text().count("read") == 2
