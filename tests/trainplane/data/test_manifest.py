"""A dataset exists when its manifest does, and the manifest stands for every byte."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainplane.config.canonical import canonical_json
from trainplane.data.index import Index, IndexWriter, Member, Row
from trainplane.data.manifest import Dataset, Manifest, SkippedFile
from trainplane.data.pack.pack import PackItem, pack
from trainplane.data.shard import Shard
from trainplane.data.verify import verify
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store

MANIFEST = Manifest(
    name="places2",
    split="train",
    shards=(Shard("shard-000000.tar", 1024, 2, "0" * 64), Shard("shard-000001.tar", 512, 1, "1" * 64)),
    index_bytes=99,
    index_sha256="2" * 64,
    skipped=(SkippedFile("a%20b.jpg", "truncated"),),
    packed={"layout": "folder", "quality": 90, "crop": [1, 2]},
)


def packed(tmp_path: Path, count: int = 20) -> Dataset:
    items = [PackItem(f"{n}.png", bytes([n]) * 700, "png", {"n": n}) for n in range(count)]
    return pack(items, str(tmp_path / "set"), name="tiny", split="train", shard_bytes=8192, how={})


def test_reads_back_what_it_wrote() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST
    assert MANIFEST.num_samples == 3


def test_the_file_is_canonical_json_and_its_digest_covers_all_the_rest() -> None:
    content = json.loads(MANIFEST.to_json())
    assert canonical_json(content) == MANIFEST.to_json()
    assert content.pop("digest") == MANIFEST.digest
    assert hashlib.sha256(canonical_json(content)).hexdigest() == MANIFEST.digest
    for changed in (
        replace(MANIFEST, name="other"),
        replace(MANIFEST, split="val"),
        replace(MANIFEST, skipped=()),
        replace(MANIFEST, packed={}),
        replace(MANIFEST, index_sha256="3" * 64),
        replace(MANIFEST, shards=MANIFEST.shards[:1]),
    ):
        assert changed.digest != MANIFEST.digest


@pytest.mark.parametrize("position", range(0, 700, 23))
def test_a_changed_byte_of_the_manifest_is_noticed(position: int) -> None:
    data = bytearray(MANIFEST.to_json())
    data[position % len(data)] ^= 0x01
    with pytest.raises(ValueError, match=r"."):
        Manifest.from_json(bytes(data))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "manifest.json cannot be used"),
        (b"[1]", "no format version"),
        (b'{"format":7}', "format 7, this release reads 1"),
        (b'{"format":1}', "a field is missing"),
        (MANIFEST.to_json().replace(b"places2", b"places3"), "digest"),
        (MANIFEST.to_json()[:-10], "manifest.json cannot be used"),
        (b"[" * 100_000, "nested without end"),
        (MANIFEST.to_json().replace(b'"index":{"bytes":', b'"index":{"bytes":1e999,"x":'), "of another type"),
        (replace(MANIFEST, shards=()).to_json(), "a shard twice, or none at all"),
        (replace(MANIFEST, shards=MANIFEST.shards * 2).to_json(), "a shard twice"),
        (replace(MANIFEST, shards=(Shard("../x.tar", 9, 1, "0" * 64),)).to_json(), "names a shard '../x.tar'"),
        (replace(MANIFEST, shards=(Shard("shard-000000.tar", 9, -1, "0" * 64),)).to_json(), "-1 samples"),
        (replace(MANIFEST, shards=(Shard("shard-٠٠٠٠٠١.tar", 9, 1, "0" * 64),)).to_json(), "names a shard"),
        (replace(MANIFEST, shards=(Shard("shard-000000.tar", 10**400, 1, "0" * 64),)).to_json(), "2\\*\\*63 bytes"),
        (replace(MANIFEST, shards=(Shard("shard-000000.tar", 9, 2**63, "0" * 64),)).to_json(), "2\\*\\*63 bytes"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_answered_in_a_sentence(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    open_store(str(tmp_path)).write("manifest.json", content)
    with pytest.raises(UserError, match=complaint):
        Dataset.open(str(tmp_path))


def test_without_a_manifest_there_is_no_dataset(tmp_path: Path) -> None:
    dataset = packed(tmp_path)
    dataset.store.delete("manifest.json")
    with pytest.raises(UserError, match="there is no dataset"):
        Dataset.open(dataset.address)


def test_names_that_no_file_or_tag_could_carry_are_refused() -> None:
    for name in ("", "a/b", "-x", "a b", "x" * 200):
        with pytest.raises(UserError, match="need letters"):
            replace(MANIFEST, name=name)


def test_an_open_dataset_says_what_it_is_and_pickles_small(tmp_path: Path) -> None:
    dataset = Dataset.open(packed(tmp_path).address)
    assert (dataset.name, dataset.split, dataset.num_samples) == ("tiny", "train", 20)
    assert dataset.num_shards == len(dataset.shards) == len(dataset.shard_sizes) > 2
    assert sum(dataset.shard_sizes) == 20
    assert dataset.bytes == sum(path.stat().st_size for path in (tmp_path / "set").glob("*.tar"))
    _ = dataset.index
    travelled = pickle.dumps(dataset)
    assert len(travelled) < 10_000
    assert pickle.loads(travelled).index.key_of(7) == dataset.index.key_of(7)


def test_an_index_that_is_missing_or_changed_is_damage(tmp_path: Path) -> None:
    address = packed(tmp_path).address
    path = Path(address, "samples.parquet")
    good = path.read_bytes()
    path.write_bytes(good[:50] + bytes([good[50] ^ 1]) + good[51:])
    with pytest.raises(RunFailed, match="damaged-index"):
        _ = Dataset.open(address).index
    path.unlink()
    with pytest.raises(RunFailed, match="missing-index"):
        _ = Dataset.open(address).index


def test_an_index_that_is_none_is_damage_although_the_manifest_names_its_digest(tmp_path: Path) -> None:
    dataset = packed(tmp_path)
    other = packed(tmp_path / "other", count=7).store.read("samples.parquet")
    columns = io.BytesIO()
    pq.write_table(pa.table({"a": [1]}), columns)
    for data in (b"", b"junk", columns.getvalue(), other):
        digest = hashlib.sha256(data).hexdigest()
        dataset.store.write("samples.parquet", data)
        changed = replace(dataset.manifest, index_sha256=digest, index_bytes=len(data))
        dataset.store.write("manifest.json", changed.to_json())
        again = Dataset.open(dataset.address)
        with pytest.raises(RunFailed, match="damaged-index"):
            _ = again.index
        assert [damage.kind for damage in verify(again)] == ["damaged-index"]


def test_the_index_holds_a_row_a_sample_and_a_row_group_a_shard() -> None:
    shards = [
        [
            Row("a-1", (Member("jpg", 512, 10, 2**32 - 1), Member("json", 1536, 3, 0))),
            Row("b-2", (Member("png", 2560, 7, 5),)),
        ],
        [Row("c-3", (Member("json", 512, 2**33, 1), Member("webp", 2**34, 5, 2)))],
    ]
    writer = IndexWriter()
    for number, rows in enumerate(shards):
        writer.add(f"shard-{number:06d}.tar", rows)
    data = writer.finish()
    table = pq.read_table(io.BytesIO(data))
    assert table.column("shard").to_pylist() == ["shard-000000.tar"] * 2 + ["shard-000001.tar"]
    assert table.column("members").to_pylist()[1] == [{"extension": "png", "offset": 2560, "size": 7, "crc32": 5}]
    sizes = ((2560 + 7, 2), (2**34 + 5, 1))
    described = [Shard(f"shard-{number:06d}.tar", *size, "") for number, size in enumerate(sizes)]
    index = Index.parse(data, shards=described)
    flat = [row for rows in shards for row in rows]
    assert [Row(index.key_of(n), index.members_of(n)) for n in range(3)] == flat
    assert [index.shard_of(n) for n in range(3)] == [0, 0, 1]
    assert index.samples_of(1) == range(2, 3)
    assert index.span(0, 2) == (0, 2567)
    with pytest.raises(ValueError, match="not the manifest's"):
        Index.parse(data, shards=described[::-1])
    for other, complaint in (
        (replace(described[1], name="shard-000002.tar"), "name another shard"),
        (replace(described[1], bytes=2**34 + 4), "lie outside"),
    ):
        with pytest.raises(ValueError, match=complaint):
            Index.parse(data, shards=[described[0], other])


def rows_of_two() -> list[dict[str, Any]]:
    """The rows of shard-000000.tar, as Arrow has them: two samples, 1024 bytes for each member."""
    return [
        {
            "shard": "shard-000000.tar",
            "key": key,
            "members": [
                {"extension": extension, "offset": 512 + (2 * at + part) * 1024, "size": 512, "crc32": 1}
                for part, extension in enumerate(("jpg", "json"))
            ],
        }
        for at, key in enumerate("ab")
    ]


def index_bytes(rows: list[dict[str, Any]]) -> bytes:
    empty = pq.ParquetFile(io.BytesIO(IndexWriter().finish())).schema_arrow
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=empty), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("spoil", "complaint"),
    [
        (lambda rows: rows[1].update(key=None), "has no key"),
        (lambda rows: rows[1].update(shard="shard-000001.tar"), "name another shard"),
        (lambda rows: rows[1].update(shard=None), "name another shard"),
        (lambda rows: rows[1].update(members=None), "has no members"),
        (lambda rows: rows[0].update(members=[]), "sample 0 has no members"),
        (lambda rows: [row.update(members=[]) for row in rows], "sample 0 has no members"),
        (lambda rows: rows[0]["members"].__setitem__(0, None), "lacks its"),
        (lambda rows: rows[0]["members"].reverse(), "of sample 0, and the header before them overlap"),
        (lambda rows: rows[1].update(members=rows[0]["members"]), "of sample 1, and the header before them overlap"),
        *[
            (lambda rows, name=name, value=value: rows[0]["members"][1].update({name: value}), complaint)
            for name, value, complaint in (
                ("extension", None, "lacks its"),
                ("offset", None, "lacks its"),
                ("size", None, "lacks its"),
                ("crc32", None, "lacks its"),
                ("offset", -5, "overlap"),
                ("offset", -(2**63), "overlap"),
                ("offset", 0, "overlap"),
                ("offset", 512 + 1023, "overlap"),
                ("offset", 2**63 - 1, "overlap"),
                ("size", -1, "overlap"),
                ("size", 513, "overlap"),
                ("size", 2**63 - 1, "overlap"),
            )
        ],
        (lambda rows: rows[1]["members"][1].update(size=513), "lie outside the shard"),
        (lambda rows: rows[1]["members"][1].update(size=2**63 - 1), "lie outside the shard"),
    ],
)
def test_numbers_that_lead_out_of_the_shard_or_to_another_sample_are_no_index(
    spoil: Callable[[list[dict[str, Any]]], object], complaint: str
) -> None:
    shards = [Shard("shard-000000.tar", 4096, 2, "")]
    rows = rows_of_two()
    assert Index.parse(index_bytes(rows), shards=shards).span(0, 2) == (0, 4096)
    spoil(rows)
    with pytest.raises(ValueError, match=complaint):
        Index.parse(index_bytes(rows), shards=shards)


def test_more_extensions_than_a_byte_can_number_are_no_index() -> None:
    def of(count: int) -> Index:
        member = {"size": 0, "crc32": 0}
        members = [{"extension": f"x{n}", "offset": 512 * (n + 1), **member} for n in range(count)]
        data = index_bytes([{"shard": "shard-000000.tar", "key": "a", "members": members}])
        return Index.parse(data, shards=[Shard("shard-000000.tar", 2**20, 1, "")])

    assert of(256).members_of(0)[-1].extension == "x255"
    with pytest.raises(ValueError, match="257 extensions, at most 256"):
        of(257)


def test_bytes_flipped_anywhere_in_an_index_are_a_value_error_or_harmless(tmp_path: Path) -> None:
    """Inside its pages, too, and at once: keys are read when something is wrong already."""
    dataset = packed(tmp_path)
    good = dataset.store.read("samples.parquet")
    refused = 0
    for at in range(4, len(good), 29):
        try:
            index = Index.parse(good[:at] + bytes([good[at] ^ 0x10]) + good[at + 1 :], shards=dataset.shards)
        except ValueError:
            refused += 1
        else:
            assert all(index.key_of(n) and index.members_of(n) for n in range(dataset.num_samples))
    assert refused > len(good) // 29 // 3


def test_an_index_of_two_hundred_thousand_samples_loads_in_half_a_second() -> None:
    rows = [
        Row(f"places_{n}-0123456789abcdef", (Member("jpg", at, 27_000, n * 7919), Member("json", at + 27_648, 60, n)))
        for n, at in enumerate(range(512, 4000 * 28_672, 28_672))
    ]
    writer = IndexWriter()
    for number in range(50):
        writer.add(f"shard-{number:06d}.tar", rows)
    data = writer.finish()
    shards = [Shard(f"shard-{number:06d}.tar", 4000 * 28_672, 4000, "") for number in range(50)]
    begun = time.process_time()
    index = Index.parse(data, shards=shards)
    assert index.members_of(199_999) == rows[-1].members
    # The bound that a million samples shall meet, scaled: 2 s.
    assert time.process_time() - begun < 0.5
