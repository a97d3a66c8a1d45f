"""What a dataset is: `manifest.json` beside its shards, and the `Dataset` that readers open.

    dataset = Dataset.open("s3://bucket/datasets/places2-train")
    dataset.digest, dataset.num_samples, dataset.shards

The manifest is canonical JSON and written last: a dataset without one does not exist. Its digest is the sha256 of the
manifest without that field, so it stands for every byte of the dataset. Not covered: making one (pack.py), checking
all of its bytes again (verify.py), reading samples (fetch.py), in which order samples are met (order.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from trainplane.config.canonical import canonical_json
from trainplane.data.damage import DAMAGED_INDEX, MISSING_INDEX, UNDECODABLE, Damage, DamageError
from trainplane.data.index import INDEX_NAME, Index
from trainplane.data.order import Order
from trainplane.data.read.cache_dir import CachePlace
from trainplane.data.shard import Shard, is_shard
from trainplane.errors import UserError
from trainplane.storage import NoBucket, NotFound, StorageError, Store, open_store

MANIFEST_NAME = "manifest.json"
FORMAT = 1

Members: TypeAlias = dict[str, bytes]
"""The files of one sample by extension; `__key__` holds the sample's key as bytes."""

T = TypeVar("T")

_READINGS = 8  # of an object whose bytes differ from reading to reading
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MOST = 2**63  # bytes or samples: what counts them further on has as many bits


@dataclass(frozen=True)
class Skipped:
    """A file that was not packed; `file` is its percent-encoded path."""

    file: str
    reason: str


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`. `packed` says how, in words and numbers of whoever packed."""

    name: str
    split: str
    shards: tuple[Shard, ...]
    index_bytes: int
    index_sha256: str
    skipped: tuple[Skipped, ...]
    packed: Mapping[str, Any]

    def __post_init__(self) -> None:
        for field, value in (("name", self.name), ("split", self.split)):
            if not _NAME.fullmatch(value):
                raise UserError(f"{field} {value!r} is none; need letters, digits, '.', '_' or '-', at most 100")

    @property
    def num_samples(self) -> int:
        return sum(shard.samples for shard in self.shards)

    @property
    def digest(self) -> str:
        """sha256 over the canonical JSON of everything but the digest itself."""
        return hashlib.sha256(canonical_json(self._content())).hexdigest()

    def to_json(self) -> bytes:
        return canonical_json(self._content() | {"digest": self.digest})

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "name": self.name,
            "split": self.split,
            "num_samples": self.num_samples,
            "num_shards": len(self.shards),
            "shards": [asdict(shard) for shard in self.shards],
            "index": {"name": INDEX_NAME, "bytes": self.index_bytes, "sha256": self.index_sha256},
            "skipped": [asdict(one) for one in self.skipped],
            "packed": self.packed,
        }

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """The manifest in these bytes; a `ValueError` says what is wrong with them."""
        try:
            content = json.loads(data)
        except RecursionError:
            raise ValueError("it is nested without end") from None
        if not isinstance(content, dict) or "format" not in content:
            raise ValueError("it has no format version")
        if content["format"] != FORMAT:
            raise ValueError(f"it has format {content['format']!r}, this release reads {FORMAT}")
        try:
            manifest = cls(
                name=content["name"],
                split=content["split"],
                shards=tuple(_shard(entry) for entry in content["shards"]),
                index_bytes=int(content["index"]["bytes"]),
                index_sha256=_sha256(content["index"]["sha256"]),
                skipped=tuple(Skipped(str(entry["file"]), str(entry["reason"])) for entry in content["skipped"]),
                packed=dict(content["packed"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"a field is missing or of another type ({error!r})") from error
        if len({shard.name for shard in manifest.shards}) < max(1, len(manifest.shards)):
            raise ValueError("it names a shard twice, or none at all")
        if manifest.num_samples >= _MOST or sum(shard.bytes for shard in manifest.shards) >= _MOST:
            raise ValueError("its shards sum up to 2**63 bytes or samples, or more")
        # Bytes, not values, are compared: what the digest stands for is the file.
        if manifest.to_json() != data:
            raise ValueError("its content does not have its digest")
        return manifest


def _shard(entry: Mapping[str, Any]) -> Shard:
    shard = Shard(str(entry["name"]), int(entry["bytes"]), int(entry["samples"]), _sha256(entry["sha256"]))
    # A digest proves nothing of who wrote it: names lead to objects, and numbers to memory.
    if not is_shard(shard.name) or shard.bytes <= 0 or shard.samples <= 0:
        raise ValueError(f"it names a shard {shard.name!r} of {shard.bytes} bytes and {shard.samples} samples")
    return shard


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is no sha256")
    return text


class Dataset:
    """A packed dataset at its address. Opening reads the manifest alone; the index is loaded at first use.

    Pickles small: the address and the manifest travel, the index is read again where it is used. `cache` is a place on
    a host's disk where readers keep what they have read of the shards.
    """

    def __init__(self, store: Store, manifest: Manifest, *, cache: CachePlace | None = None) -> None:
        self.store = store
        self.manifest = manifest
        self.cache = cache
        self.digest = manifest.digest
        self._index: Index | None = None

    @classmethod
    def open(
        cls, where: str | Store, *, cache: CachePlace | None = None, expected_digest: str | None = None
    ) -> Dataset:
        """The dataset at an address or in a store; a `UserError` when there is none or its manifest is damaged, or
        where it is not the one of `expected_digest`."""
        store = open_store(where) if isinstance(where, str) else where
        try:
            dataset = cls(store, _read_alike(store, MANIFEST_NAME, Manifest.from_json), cache=cache)
        except NotFound:
            raise UserError(
                f"{store.address}: there is no dataset (no {MANIFEST_NAME}); "
                "check the address, or pack one there; packing that was interrupted is run again"
            ) from None
        except NoBucket as error:
            raise UserError(str(error)) from error
        except ValueError as error:
            raise UserError(
                f"{store.address}: {MANIFEST_NAME} cannot be used ({error}); "
                "restore it from a copy, or pack the dataset again"
            ) from error
        if expected_digest not in (None, dataset.digest):
            raise UserError(f"dataset {store.address}: {_replaced(str(expected_digest), dataset.digest)}")
        return dataset

    def __repr__(self) -> str:
        return f"Dataset({self.address!r}, {self.num_samples} samples, digest {self.digest[:12]})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_index": None}

    @property
    def address(self) -> str:
        return self.store.address

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def split(self) -> str:
        return self.manifest.split

    @property
    def num_samples(self) -> int:
        return self.manifest.num_samples

    @property
    def num_shards(self) -> int:
        return len(self.manifest.shards)

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @property
    def sample_bytes(self) -> int:
        """Mean bytes of a sample, headers included."""
        return self.bytes // max(1, self.num_samples)

    def order(self, *, seed: int, global_batch: int) -> Order:
        """The order in which a run of that seed and batch meets this dataset."""
        return Order(
            digest=self.digest,
            shard_sizes=self.shard_sizes,
            seed=seed,
            global_batch=global_batch,
            sample_bytes=self.sample_bytes,
        )

    @property
    def shards(self) -> tuple[Shard, ...]:
        return self.manifest.shards

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples in each shard."""
        return tuple(shard.samples for shard in self.manifest.shards)

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        return self.manifest.skipped

    @property
    def index(self) -> Index:
        """Where every sample lies; loaded and checked at first use, `DamageError` when it is not as packed."""
        if self._index is None:
            try:
                self._index = _read_alike(self.store, INDEX_NAME, partial(index_of, self.manifest))
            except NotFound:
                raise self._index_damage(MISSING_INDEX) from None
            except ValueError as error:
                raise self._index_damage(DAMAGED_INDEX, str(error)) from error
        return self._index

    def remedy(self, usual: str) -> str:
        """What to do about damage met in this dataset: `usual`, unless another one stands in its place by now."""
        try:
            now = _read_alike(self.store, MANIFEST_NAME, Manifest.from_json).digest
        except NotFound:
            return "its manifest is gone: the dataset was deleted, or is being replaced; put it back"
        except (ValueError, StorageError):
            return usual
        return usual if now == self.digest else _replaced(self.digest, now)

    def _index_damage(self, kind: str, detail: str = "") -> DamageError:
        remedy = self.remedy("restore it from a copy, or pack again")
        return DamageError(self.address, [Damage(INDEX_NAME, "", kind, detail)], remedy)


def _replaced(began_with: str, now: str) -> str:
    return (
        f"another dataset stands there by now (digest {now[:12]}, this run began with {began_with[:12]}); "
        "put the former one back, or start a new run with the new one"
    )


def index_of(manifest: Manifest, data: bytes) -> Index:
    """The index in these bytes; a `ValueError` says why they are not the one that the manifest means."""
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise ValueError("its sha256 is not the manifest's")
    if len(data) != manifest.index_bytes:
        raise ValueError(f"it has {len(data)} bytes, the manifest says {manifest.index_bytes}")
    return Index(data, shards=manifest.shards)


def _read_alike(store: Store, key: str, made_of: Callable[[bytes], T]) -> T:
    """What an object's bytes make; where that is a `ValueError`, they may have been spoilt on the way: two readings
    that give the same bytes are needed for it to count."""
    seen: bytes | None = None
    for _ in range(_READINGS):
        data = store.read(key)
        try:
            return made_of(data)
        except ValueError:
            if data == seen:
                raise
            seen = data
    return made_of(store.read(key))


def undecodable(dataset: Dataset, sample: int, error: ValueError) -> Damage:
    """Sample number `sample` as damage, because decoding it raised `error`."""
    shard = dataset.shards[dataset.index.shard_of(sample)].name
    return Damage(shard, dataset.index.key_of(sample), UNDECODABLE, str(error))


@contextmanager
def decoding(dataset: Dataset, sample: int) -> Iterator[None]:
    """Around the decoding of one sample that nothing may stand in for.

    A `ValueError` becomes a `DamageError` that names dataset, shard and key; a `UserError` is about something else, and
    stays.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        remedy = dataset.remedy("repair the picture and pack again, or pack without it")
        raise DamageError(dataset.address, [undecodable(dataset, sample, error)], remedy) from error
