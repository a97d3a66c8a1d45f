"""Manifest of a dataset, and `Dataset`, which readers open.

    dataset = Dataset.open("s3://bucket/datasets/places2-train")

`manifest.json` beside the shards is canonical JSON and written last: a dataset without one does not exist. Its digest
is the sha256 of the manifest without that field, so it stands for every byte of the dataset.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias, TypeVar

from trainplane.config.canonical import canonical_json
from trainplane.data.damage import DAMAGED_INDEX, MISSING_INDEX, UNDECODABLE, Damage, DamageError
from trainplane.data.index import INDEX_NAME, Index, Member
from trainplane.data.index_file import MAP_FROM_SAMPLES
from trainplane.data.order import Order
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.data.shard import Shard, is_inherited, is_shard, shard_place
from trainplane.errors import UserError
from trainplane.storage import NoBucket, NotFound, StorageError, Store, open_store

MANIFEST_NAME = "manifest.json"
FORMAT = 1

Members: TypeAlias = dict[str, bytes]
"""Files of one sample by extension; `__key__` holds the sample's key as bytes."""

Content: TypeAlias = bytes
"""Bytes, where the name `bytes` means something else."""

T = TypeVar("T")
Parser: TypeAlias = Callable[[bytes], T]

_READINGS = 8  # of an object whose bytes differ from reading to reading
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LIMIT = 2**63  # bytes or samples: numpy and Arrow count them with as many bits


@dataclass(frozen=True)
class SkippedFile:
    """File that was not packed."""

    file: str  # its path, percent-encoded
    reason: str  # for people


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`."""

    name: str
    split: str  # such as "train"
    shards: tuple[Shard, ...]
    index_bytes: int
    index_sha256: str  # hexadecimal
    skipped: tuple[SkippedFile, ...]
    packed: Mapping[str, Any]  # options of the packing: JSON values chosen by the packer

    def __post_init__(self) -> None:
        for field, value in (("name", self.name), ("split", self.split)):
            if not _NAME.fullmatch(value):
                raise UserError(f"{field} {value!r} cannot be used; need letters, digits, '.', '_' or '-', at most 100")

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def digest(self) -> str:
        """Sha256 of the canonical JSON without the digest itself."""
        return hashlib.sha256(canonical_json(self._content())).hexdigest()

    def to_json(self) -> bytes:
        """Returns the bytes of `manifest.json`."""
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
            "skipped": [asdict(file) for file in self.skipped],
            "packed": self.packed,
        }

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Parses the bytes of `manifest.json`; `ValueError` if invalid."""
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
                skipped=tuple(SkippedFile(str(entry["file"]), str(entry["reason"])) for entry in content["skipped"]),
                packed=dict(content["packed"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"a field is missing or of another type ({error!r})") from error
        if len({shard.name for shard in manifest.shards}) < max(1, len(manifest.shards)):
            raise ValueError("it names a shard twice, or none at all")
        if manifest.num_samples >= _LIMIT or sum(shard.bytes for shard in manifest.shards) >= _LIMIT:
            raise ValueError("its shards sum up to 2**63 bytes or samples, or more")
        # Bytes, not values, are compared: the digest stands for the file.
        if manifest.to_json() != data:
            raise ValueError("its content does not have its digest")
        return manifest


def _shard(entry: Mapping[str, Any]) -> Shard:
    shard = Shard(str(entry["name"]), int(entry["bytes"]), int(entry["samples"]), _sha256(entry["sha256"]))
    # A valid digest does not prove that a manifest is honest: names lead to objects, and numbers to memory.
    is_name = is_shard(shard.name) or is_inherited(shard.name)
    if not is_name or shard.bytes <= 0 or shard.samples <= 0:
        raise ValueError(f"it names a shard {shard.name!r} of {shard.bytes} bytes and {shard.samples} samples")
    return shard


def _sha256(text: str) -> str:
    if not _SHA256.fullmatch(text):
        raise ValueError(f"{text!r} is no sha256")
    return text


class NoDataset(UserError):
    """There is no dataset at an address."""


class Dataset:
    """Packed dataset at its address.

    Opening reads the manifest alone; the index is loaded at first use, and again after pickling. Readers cache shards
    on the host's disk if `cache` is set.
    """

    def __init__(self, store: Store, manifest: Manifest, *, cache: CacheConfig | None = None) -> None:
        self.store = store
        self.address = store.address
        self.manifest = manifest
        self.digest = manifest.digest
        self.name = manifest.name
        self.split = manifest.split
        self.shards = manifest.shards
        self.num_shards = len(manifest.shards)
        self.num_samples = manifest.num_samples
        self.skipped = manifest.skipped
        self.cache = cache
        self._index: Index | None = None
        self._places: dict[str, tuple[Store, str]] = {}  # of inherited shards

    @classmethod
    def open(
        cls, where: str | Store, *, cache: CacheConfig | None = None, expected_digest: str | None = None
    ) -> Dataset:
        """Opens the dataset at an address or in a store.

        Raises `UserError` without a valid manifest of the `expected_digest`.
        """
        store = open_store(where) if isinstance(where, str) else where
        try:
            dataset = cls(store, _read_parsed(store, MANIFEST_NAME, Manifest.from_json), cache=cache)
        except NotFound:
            raise NoDataset(
                f"{store.address}: there is no dataset (no {MANIFEST_NAME}); "
                "check the address, or pack one there; if a packing was interrupted, run it again"
            ) from None
        except NoBucket as error:
            raise UserError(str(error)) from error
        # A mistake in settings of the store is no damage of the dataset.
        except UserError:
            raise
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
        return self.__dict__ | {"_index": None, "_places": {}}  # keeps the pickle small

    @property
    def bytes(self) -> int:
        """Bytes of all shards."""
        return sum(shard.bytes for shard in self.manifest.shards)

    @property
    def sample_bytes(self) -> int:
        """Mean bytes of a sample, headers included."""
        return self.bytes // max(1, self.num_samples)

    def order(self, *, seed: int, global_batch: int) -> Order:
        """Returns the sample order of a run."""
        return Order(
            digest=self.digest,
            shard_sizes=self.shard_sizes,
            seed=seed,
            global_batch=global_batch,
            sample_bytes=self.sample_bytes,
        )

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples in each shard."""
        return tuple(shard.samples for shard in self.manifest.shards)

    def shard_place(self, shard: Shard) -> tuple[Store, str]:
        """Returns the store and the key of a shard."""
        if is_shard(shard.name):
            return self.store, shard.name
        if shard.name not in self._places:
            self._places[shard.name] = shard_place(self.store, shard.name)
        return self._places[shard.name]

    @property
    def index(self) -> Index:
        """Index, loaded and checked at first use; may raise `DamageError`."""
        if self._index is None:
            with self._index_errors():
                self._index = self._load_index()
        return self._index

    def index_bytes(self) -> Content:
        """Reads the file of the index; may raise `DamageError`."""
        with self._index_errors():
            return self._read_index(lambda data: data)

    def read_member(self, sample: int, member: Member) -> Content:
        """Reads one member of a sample from the store, unchecked."""
        store, key = self.shard_place(self.shards[self.index.shard_of(sample)])
        return store.read(key, start=member.offset, length=member.size)

    def remedy(self, usual: str) -> str:
        """Advice for damage: `usual`, unless the dataset was replaced since."""
        try:
            current = _read_parsed(self.store, MANIFEST_NAME, Manifest.from_json).digest
        except NotFound:
            return "its manifest is gone: the dataset was deleted, or is being replaced; put it back"
        except (ValueError, StorageError):
            return usual
        return usual if current == self.digest else _replaced(self.digest, current)

    def undecodable(self, sample: int, error: ValueError) -> Damage:
        """Describes an intact sample that the task cannot decode."""
        shard = self.shards[self.index.shard_of(sample)].name
        return Damage(shard, self.index.key_of(sample), UNDECODABLE, str(error))

    @contextmanager
    def decoding(self, sample: int) -> Iterator[None]:
        """Reports an intact sample that cannot be decoded as damage.

        For a sample that no other may replace: a `ValueError` of the block becomes a `DamageError` that names dataset,
        shard and key. A `UserError` has another cause and passes through.
        """
        try:
            yield
        except UserError:
            raise
        except ValueError as error:
            remedy = self.remedy("repair the sample and pack again, or pack without it")
            raise DamageError(self.address, [self.undecodable(sample, error)], remedy) from error

    @contextmanager
    def _index_errors(self) -> Iterator[None]:
        try:
            yield
        except NotFound:
            raise self._index_damage(MISSING_INDEX) from None
        except UserError:
            raise
        except ValueError as error:
            raise self._index_damage(DAMAGED_INDEX, str(error)) from error

    def _load_index(self) -> Index:
        if self.num_samples >= MAP_FROM_SAMPLES:
            folder = self.cache.folder if self.cache else None
            # Where this host cannot share a file (no room, no folder of ours), each process has its own copy.
            with suppress(OSError):
                return Index.shared(folder, self.digest, shards=self.shards, read=self._read_index)
        return self._read_index(lambda data: Index.parse(data, shards=self.shards))

    def _read_index(self, parse: Parser[T]) -> T:
        def checked(data: bytes) -> T:
            _check_index(self.manifest, data)
            return parse(data)

        return _read_parsed(self.store, INDEX_NAME, checked)

    def _index_damage(self, kind: str, detail: str = "") -> DamageError:
        remedy = self.remedy("restore it from a copy, or pack again")
        return DamageError(self.address, [Damage(INDEX_NAME, "", kind, detail)], remedy)


def _replaced(opened: str, current: str) -> str:
    return (
        f"another dataset stands there by now (digest {current[:12]}, this run began with {opened[:12]}); "
        "put the former one back, or start a new run with the new one"
    )


def parse_index(manifest: Manifest, data: bytes) -> Index:
    """Parses the bytes of a manifest's index, or raises `ValueError`."""
    _check_index(manifest, data)
    return Index.parse(data, shards=manifest.shards)


def _check_index(manifest: Manifest, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
        raise ValueError("its sha256 is not the manifest's")
    if len(data) != manifest.index_bytes:
        raise ValueError(f"it has {len(data)} bytes, the manifest says {manifest.index_bytes}")


def _read_parsed(store: Store, key: str, parse: Callable[[bytes], T]) -> T:
    # Reads and parses an object. Bytes that do not parse may have been corrupted on the way. The parser's `ValueError`
    # counts only when two readings give the same bytes.
    rejected: bytes | None = None
    for _ in range(_READINGS):
        data = store.read(key)
        try:
            return parse(data)
        except ValueError:
            if data == rejected:
                raise
            rejected = data
    return parse(store.read(key))
