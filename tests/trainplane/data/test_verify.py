"""Every kind of damage of a stored dataset is found, named, and repaired from a copy."""

from __future__ import annotations

import hashlib
import random
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import small_datasets as small
import webdataset

from trainplane.data.damage import Damage, DamageError
from trainplane.data.index import IndexWriter, Row
from trainplane.data.manifest import Dataset
from trainplane.data.pack.shard_builder import PackItem, build_shard
from trainplane.data.verify import repair, verify
from trainplane.errors import UserError
from trainplane.storage import Store, open_store
from trainplane.storage.folder import FolderStore

SHARD = "shard-000001.tar"

Spoil = Callable[[Dataset, random.Random], None]


def copy_of(dataset: Dataset, dest: Path | str) -> Dataset:
    """An independent copy of a small dataset."""
    store = open_store(str(dest))
    for entry in dataset.store.list():
        store.write(entry.key, dataset.store.read(entry.key))
    return Dataset.open(store)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return small.make(tmp_path_factory.mktemp("verify") / "sound", 60)


@pytest.fixture
def dataset(sound: Dataset, tmp_path: Path) -> Dataset:
    return copy_of(sound, tmp_path / "set")


def members(dataset: Dataset, shard: str = SHARD) -> list[tuple[int, str, int, int]]:
    """(sample, key, header's offset, payload's size) of each member of a shard."""
    number = [one.name for one in dataset.shards].index(shard)
    index = dataset.index
    return [
        (sample, index.key_of(sample), member.offset - 512, member.size)
        for sample in index.samples_of(number)
        for member in index.members_of(sample)
    ]


def built_of_other_files() -> bytes:
    return build_shard(0, [PackItem(f"other {n}.png", b"picture", "png") for n in range(5)]).data


def change(store: Store, key: str, changed: Callable[[bytes], bytes]) -> None:
    store.write(key, changed(store.read(key)))


def flipped(data: bytes, at: int, mask: int = 0x20) -> bytes:
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def cut_at_a_member(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, _ = chance.choice(members(dataset)[1:])
    change(dataset.store, SHARD, lambda data: data[:at])


def cut_between_the_members_of_a_sample(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, _ = chance.choice(members(dataset)[1::2])
    change(dataset.store, SHARD, lambda data: data[:at])


def cut_in_a_header(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, _ = chance.choice(members(dataset))
    change(dataset.store, SHARD, lambda data: data[: at + chance.randrange(1, 512)])


def cut_in_a_payload(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, size = chance.choice(members(dataset))
    change(dataset.store, SHARD, lambda data: data[: at + 512 + chance.randrange(size)])


def hole_of_zeros(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, _ = chance.choice(members(dataset))
    change(dataset.store, SHARD, lambda data: data[:at] + bytes(1024) + data[at + 1024 :])


def flipped_header_byte(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, _ = chance.choice(members(dataset))
    change(dataset.store, SHARD, lambda data: flipped(data, at + chance.randrange(512), 1 << chance.randrange(8)))


def flipped_payload_bytes(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, size = chance.choice(members(dataset))
    for _ in range(chance.choice([1, 20])):
        change(
            dataset.store,
            SHARD,
            lambda data: flipped(data, at + 512 + chance.randrange(size), chance.randrange(1, 256)),
        )


def flipped_byte_anywhere(dataset: Dataset, chance: random.Random) -> None:
    change(dataset.store, SHARD, lambda data: flipped(data, chance.randrange(len(data)), chance.randrange(1, 256)))


def member_taken_out(dataset: Dataset, chance: random.Random) -> None:
    _, _, at, size = chance.choice(members(dataset))
    end = at + 512 + -(-size // 512) * 512
    change(dataset.store, SHARD, lambda data: data[:at] + data[end:])


def bytes_taken_out(dataset: Dataset, chance: random.Random) -> None:
    change(
        dataset.store,
        SHARD,
        lambda data: data[: (at := chance.randrange(len(data) // 2))] + data[at + chance.randrange(1, 99) :],
    )


def bytes_put_on_the_end(dataset: Dataset, chance: random.Random) -> None:
    change(dataset.store, SHARD, lambda data: data + chance.randbytes(chance.randrange(1, 2000)))


def shard_lost(dataset: Dataset, chance: random.Random) -> None:
    dataset.store.delete(SHARD)


def shard_emptied(dataset: Dataset, chance: random.Random) -> None:
    dataset.store.write(SHARD, b"")


def shards_swapped(dataset: Dataset, chance: random.Random) -> None:
    other = dataset.store.read("shard-000002.tar")
    dataset.store.write("shard-000002.tar", dataset.store.read(SHARD))
    dataset.store.write(SHARD, other)


def shard_of_another_packing(dataset: Dataset, chance: random.Random) -> None:
    dataset.store.write(SHARD, built_of_other_files())


def index_changed(dataset: Dataset, chance: random.Random) -> None:
    change(dataset.store, "samples.parquet", lambda data: flipped(data, chance.randrange(len(data))))


def index_lost(dataset: Dataset, chance: random.Random) -> None:
    dataset.store.delete("samples.parquet")


ZOO: list[Spoil] = [
    cut_at_a_member,
    cut_between_the_members_of_a_sample,
    cut_in_a_header,
    cut_in_a_payload,
    hole_of_zeros,
    flipped_header_byte,
    flipped_payload_bytes,
    flipped_byte_anywhere,
    member_taken_out,
    bytes_taken_out,
    bytes_put_on_the_end,
    shard_lost,
    shard_emptied,
    shards_swapped,
    shard_of_another_packing,
    index_changed,
    index_lost,
]


def test_a_sound_dataset_has_no_damage_and_every_shard_is_counted(sound: Dataset) -> None:
    checked = []
    assert verify(sound, progress=checked.append) == []
    assert checked == list(sound.shards)


@pytest.mark.parametrize("spoil", ZOO, ids=lambda spoil: spoil.__name__)
def test_the_whole_zoo_is_found_and_repaired_from_a_copy(dataset: Dataset, sound: Dataset, spoil: Spoil) -> None:
    for seed in range(5):
        spoil(dataset, random.Random(seed))
        assert verify(dataset) != [], seed
        damage, remaining = repair(dataset, sound.store)
        assert damage != [], seed
        assert remaining == [], seed
    assert {entry.key: dataset.store.read(entry.key) for entry in dataset.store.list()} == {
        entry.key: sound.store.read(entry.key) for entry in sound.store.list()
    }


@pytest.mark.nightly
def test_five_hundred_seeds_of_the_zoo_are_found_and_webdatasets_own_count_stands_beside(
    dataset: Dataset, sound: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = theirs = cases = 0
    shard_spoils = [spoil for spoil in ZOO if not spoil.__name__.startswith("index")]
    for seed in range(500):
        chance = random.Random(seed)
        chance.choice(shard_spoils)(dataset, chance)
        cases += 1
        ours += verify(dataset) != []
        theirs += webdataset_complains(dataset)
        for name in (SHARD, "shard-000002.tar"):
            dataset.store.write(name, sound.store.read(name))
    with capsys.disabled():
        print(f"\ndamage noticed in {cases} cases: verify {ours}, webdataset {theirs}")
    assert ours == cases


def webdataset_complains(dataset: Dataset) -> bool:
    """True if webdataset, with its defaults, raises any error on the shards."""
    urls = [f"{dataset.address}/{shard.name}" for shard in dataset.shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for _ in webdataset.WebDataset(urls, shardshuffle=False):
                pass
        except (OSError, ValueError, EOFError, tarfile.TarError):
            return True
    return False


class TestKinds:
    """Names of the kinds of damage; people and `data verify --json` rely on them."""

    def test_a_cut_names_every_sample_behind_it(self, dataset: Dataset) -> None:
        of_shard = members(dataset)
        sample, _, at, _ = of_shard[len(of_shard) // 2 // 2 * 2]
        change(dataset.store, SHARD, lambda data: data[:at])
        behind = list(dict.fromkeys(key for other, key, _, _ in of_shard if other >= sample))
        assert verify(dataset) == [Damage(SHARD, key, "cut-shard") for key in behind]

    @pytest.mark.parametrize(
        ("offset", "new", "kind"),
        [
            (512 + 5, b"\xff\x00\xff", "damaged-payload"),
            (110, b"\x7f", "damaged-header"),
            (0, bytes(1024), "zeros"),
            (512, bytes(512), "zeros"),
        ],
    )
    def test_one_spoilt_sample_is_named_alone(self, dataset: Dataset, offset: int, new: bytes, kind: str) -> None:
        _, key, at, _ = members(dataset)[3]
        small.overwrite(dataset.store, SHARD, at + offset, new)
        assert verify(dataset) == [Damage(SHARD, key, kind)]

    def test_a_member_taken_out_is_missed_and_those_behind_it_have_moved(self, dataset: Dataset) -> None:
        of_shard = members(dataset)
        _, key, at, size = of_shard[5]
        end = at + 512 + -(-size // 512) * 512
        change(dataset.store, SHARD, lambda data: data[:at] + data[end:])
        damage = verify(dataset)
        assert damage[0] == Damage(SHARD, key, "missing-member")
        behind = list(dict.fromkeys(other for _, other, _, _ in of_shard[6:] if other != key))
        assert damage[1:] == [Damage(SHARD, other, "moved-member") for other in behind]

    def test_whole_shards_and_the_index_have_names_of_their_own(self, dataset: Dataset, tmp_path: Path) -> None:
        shards = [shard.name for shard in dataset.shards]
        assert len(shards) >= 3
        whole = dataset.store.read(shards[0])
        dataset.store.write(shards[0], dataset.store.read(shards[1]))
        assert verify(dataset) == [Damage(shards[0], "", "swapped-shard")]
        dataset.store.write(shards[0], built_of_other_files())
        assert [one.kind for one in verify(dataset)] == ["stale-shard"]
        dataset.store.write(shards[0], whole + b"x")
        assert verify(dataset) == [Damage(shards[0], "", "long-shard")]
        dataset.store.write(shards[0], flipped(whole, len(whole) - 1))
        assert verify(dataset) == [Damage(shards[0], "", "damaged-padding")]
        dataset.store.write(shards[0], whole[:-10])
        assert verify(dataset) == [Damage(shards[0], "", "cut-shard")]
        dataset.store.delete(shards[0])
        assert verify(dataset) == [Damage(shards[0], "", "missing-shard")]
        dataset.store.delete("samples.parquet")
        assert verify(dataset) == [
            Damage("samples.parquet", "", "missing-index"),
            Damage(shards[0], "", "missing-shard"),
        ]


def sealed(dataset: Dataset, **changes: Any) -> Dataset:
    """The dataset under a manifest that says something else of it, and has its digest."""
    dataset.store.write("manifest.json", replace(dataset.manifest, **changes).to_json())
    return Dataset.open(dataset.store)


@pytest.mark.parametrize("size", [1, -512, 512, 2**62])
def test_a_length_that_only_the_manifest_has_wrong_is_damage(dataset: Dataset, size: int) -> None:
    first = dataset.shards[0]
    wrong = size if abs(size) != 512 else first.bytes + size
    shards = (replace(first, bytes=wrong), *dataset.shards[1:])
    damage = [(one.shard, one.kind) for one in verify(sealed(dataset, shards=shards))]
    assert (first.name, "cut-shard" if wrong > first.bytes else "long-shard") in damage
    assert (("samples.parquet", "damaged-index") in damage) == (size == 1)


@pytest.mark.parametrize("size", [3, -3, 10**30])
def test_an_index_whose_length_the_manifest_has_wrong_is_damage_to_readers_too(dataset: Dataset, size: int) -> None:
    wrong = sealed(dataset, index_bytes=size)
    assert verify(wrong) == [Damage("samples.parquet", "", "damaged-index")]
    with pytest.raises(DamageError, match=f"the manifest says {size}"):
        _ = wrong.index


@pytest.mark.parametrize(
    ("changed", "key", "kind"),
    [
        (lambda row: replace(row, members=(replace(row.members[0], crc32=1), *row.members[1:])), "", "damaged-payload"),
        (lambda row: replace(row, key="other"), "other", "missing-member"),
    ],
)
def test_a_row_that_its_shard_contradicts_is_damage_under_any_digests(
    dataset: Dataset, changed: Callable[[Row], Row], key: str, kind: str
) -> None:
    index, writer = dataset.index, IndexWriter()
    for number, shard in enumerate(dataset.shards):
        rows = [Row(index.key_of(sample), index.members_of(sample)) for sample in index.samples_of(number)]
        if shard.name == SHARD:
            key = key or rows[2].key
            rows[2] = changed(rows[2])
        writer.add(shard.name, rows)
    data = writer.finish()
    dataset.store.write("samples.parquet", data)
    wrong = sealed(dataset, index_bytes=len(data), index_sha256=hashlib.sha256(data).hexdigest())
    assert verify(wrong) == [Damage(SHARD, key, kind)]


def test_a_repaired_index_names_the_samples_of_a_shard_that_stays_damaged(dataset: Dataset, sound: Dataset) -> None:
    shard, key = small.spoil_sample(dataset, 30)
    index_lost(dataset, random.Random(0))
    copy = copy_of(sound, Path(dataset.address).parent / "copy")
    copy.store.delete(shard)
    remaining = Damage(shard, key, "damaged-payload")
    assert repair(dataset, copy.store) == ([Damage("samples.parquet", "", "missing-index"), remaining], [remaining])


class Flipping(FolderStore):
    """Every other reading of an object has a byte that the network flipped, never the same one."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.readings = 0

    def read(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        self.readings += 1
        data = super().read(key, start=start, length=length)
        return flipped(data, self.readings % len(data)) if self.readings % 2 else data


def test_a_network_that_flips_bytes_is_no_damage_and_hinders_no_repair(dataset: Dataset, sound: Dataset) -> None:
    assert verify(Dataset.open(Flipping(Path(sound.address)))) == []
    shard_lost(dataset, random.Random(1))
    damage, remaining = repair(Dataset.open(Flipping(Path(dataset.address))), Flipping(Path(sound.address)))
    assert ([one.kind for one in damage], remaining) == (["missing-shard"], [])
    assert verify(dataset) == []


def test_repair_takes_nothing_that_is_not_as_packed(dataset: Dataset, sound: Dataset, tmp_path: Path) -> None:
    copy = copy_of(sound, tmp_path / "copy")
    small.spoil_sample(dataset, 30)
    small.spoil_sample(copy, 30)
    before = verify(dataset)
    assert repair(dataset, copy.store) == (before, before)
    assert before != []
    with pytest.raises(UserError, match="nothing is there"):
        repair(dataset, open_store(str(tmp_path / "empty")))
    with pytest.raises(UserError, match="is the dataset itself"):
        repair(dataset, dataset.store)


def test_verifies_on_s3(s3_address: str) -> None:
    dataset = small.make(s3_address, 20)
    assert verify(dataset) == []
    shard, key = small.spoil_sample(dataset, 11)
    assert verify(dataset) == [Damage(shard, key, "damaged-payload")]
