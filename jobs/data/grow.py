"""Adds photos to a dataset, removes some, or merges two.

A photo's side never changes: where a dataset was packed with shares, the photo's own bytes decide as they did then;
where it was not, `apart` names the dataset whose photos it must not get, and the manifest remembers that one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from isnet.errors import InputError
from jobs.data.packing import Recode, prepare, skipped_file
from jobs.data.sources import PictureSource, Skip
from jobs.data.split import Side, parse_shares, side_of
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.grow.contents import Contents
from trainplane.data.grow.derive import check_same_kind, derive
from trainplane.data.grow.inheritance import Inheritance, Mask, whole
from trainplane.data.grow.lineage import KEY, lineage_of
from trainplane.data.grow.merge import Apart, held_out, joining
from trainplane.data.grow.samples import stored_again
from trainplane.data.grow.versions import VersionName, all_versions, next_version
from trainplane.data.manifest import Dataset, SkippedFile
from trainplane.data.named import open_dataset
from trainplane.data.pack.executor import Entry
from trainplane.data.pack.pack import NothingNew
from trainplane.data.pack.shard_builder import PackItem, key_of
from trainplane.errors import UserError

# Says that no photo need be kept out.
NONE = "none"


def add_photos(
    dataset: Dataset, entries: Iterable[PictureSource | Skip], *, apart: Sequence[Apart], apart_names: Sequence[str]
) -> Dataset:
    """Stores a version of a dataset that has more photos.

    Returns the dataset itself where it has all of them already. Raises `UserError` where there are none.
    """
    packed = dataset.manifest.packed
    if packed.get("layout", "folder") != "folder":
        raise UserError(
            f"{dataset.name} has the layout {packed['layout']}, whose lists say which photo is in it; "
            "pack yours as a dataset of its own"
        )
    target = next_version(VersionName.of(dataset.address).root)
    new = _NewPhotos(Contents(dataset), apart, prefix=f"added-{target.number}/")
    try:
        return derive(
            [whole(dataset)],
            target.address,
            how="add",
            name=dataset.name,
            facts={"apart": list(apart_names)},
            entries=new.entries(entries, recode_of(dataset), side_in(dataset)),
            needs_new=True,
        )
    except NothingNew as nothing:
        if new.known:
            return dataset
        raise UserError(f"nothing to add to {dataset.name}: {nothing}; give a source with photos") from None


def remove_samples(dataset: Dataset, removed: Mask, *, rewrite: bool) -> Dataset:
    """Stores a version of a dataset that lacks some samples.

    Args:
        dataset: Dataset that has them.
        removed: bool (samples,).
        rewrite: True stores the shards of removed samples again, without them; else their bytes stay in the tars.
    """
    if removed.all():
        raise UserError(f"{dataset.name}: all {dataset.num_samples} samples would go; keep one, or pack other photos")
    keeps, again = ~removed, []
    if rewrite:
        for shard in range(dataset.num_shards):
            samples = dataset.index.samples_of(shard)
            part = slice(samples.start, samples.stop)
            if removed[part].any():
                again += [sample for sample in samples if keeps[sample]]
                keeps[part] = False
    return derive(
        [Inheritance(dataset, keeps)],
        next_version(VersionName.of(dataset.address).root).address,
        how="remove",
        name=dataset.name,
        facts={"removed": int(removed.sum()), **_apart_of(dataset)},
        entries=stored_again(dataset, again),
    )


def merge_datasets(dataset: Dataset, other: Dataset, *, apart: Sequence[Apart], apart_names: Sequence[str]) -> Dataset:
    """Stores a version that has another dataset's photos, too.

    Returns the dataset itself where it has all of them already.
    """
    check_same_kind(dataset, other)
    join = joining(Contents(dataset), Contents(other), apart)
    if not join.shared.any() and not join.renamed:
        return dataset
    entries: list[Iterable[Entry]] = [join.skipped, stored_again(other, join.renamed, prefix=f"{other.name}/")]
    return derive(
        [whole(dataset), Inheritance(other, join.shared)],
        next_version(VersionName.of(dataset.address).root).address,
        how="merge",
        name=dataset.name,
        facts={"apart": list(apart_names)},
        entries=(entry for group in entries for entry in group),
    )


def subset(dataset: Dataset, chosen: Mask, destination: str, *, name: str, facts: dict[str, Any]) -> Dataset:
    """Stores a dataset of some samples of another."""
    facts = {**facts, **_apart_of(dataset)}
    return derive([Inheritance(dataset, chosen)], destination, how="subset", name=name, facts=facts)


def apart_from(dataset: Dataset, typed: Sequence[str], context: Context) -> tuple[list[Apart], list[str]]:
    """Opens the datasets whose photos stay out of another.

    Args:
        dataset: The other.
        typed: Their names, or `none`; what the dataset's manifest names counts as well.
        context: Where names are looked up.

    Raises:
        UserError: If the dataset is one side of a split and nothing says what the other side has.
    """
    names = list(dict.fromkeys([*_apart_of(dataset).get("apart", []), *(name for name in typed if name != NONE)]))
    has_sides = dataset.split != "all" and "shares" not in dataset.manifest.packed
    if has_sides and not names and NONE not in typed:
        again = command_line("data", "add", dataset.name, "SRC", "--apart-from", "OTHER")
        raise UserError(
            f"{dataset.name} is the side {dataset.split!r} and was packed without --shares, so nothing says which "
            f"photos belong to the other side; name the dataset that has them: `{again}`, or --apart-from {NONE}"
        )
    root = VersionName.of(dataset.address).root
    apart = []
    for name in names:
        opposite = open_dataset(name, context)
        if VersionName.of(opposite.address).root == root:
            raise UserError(f"--apart-from {name} is the dataset itself; name the one that holds the other side")
        apart += [Apart(name, Contents(each)) for each in _ever_in(opposite)]
    return apart, names


def _ever_in(dataset: Dataset) -> list[Dataset]:
    """Versions that have all that was ever in a dataset."""
    # A photo that was removed from the held-out side was seen by those who judged by it.
    versions = [Dataset.open(version.address) for version in all_versions(VersionName.of(dataset.address).root)]
    lineages = [lineage for each in versions if (lineage := lineage_of(each)) is not None]
    shared = {parent.digest for lineage in lineages if lineage.how != "remove" for parent in lineage.parents}
    return [each for each in versions if each.digest not in shared]


def recode_of(dataset: Dataset) -> Recode:
    """Conversion of the photos in a dataset."""
    packed = dataset.manifest.packed
    return Recode(
        packed.get("kind", "photos"), packed.get("max_side"), packed.get("quality") or 90, packed.get("hole", "white")
    )


def side_in(dataset: Dataset) -> Side | None:
    """Side of the photos in a dataset; None: all."""
    shares = dataset.manifest.packed.get("shares")
    return side_of(parse_shares(shares), dataset.split) if shares else None


def _apart_of(dataset: Dataset) -> dict[str, Any]:
    grown = dataset.manifest.packed.get(KEY)
    names = grown.get("apart") if isinstance(grown, dict) else None
    return {"apart": [str(name) for name in names]} if isinstance(names, list) else {}


class _NewPhotos:
    """Photos that a dataset lacks, in their order."""

    def __init__(self, contents: Contents, apart: Sequence[Apart], *, prefix: str) -> None:
        self._contents = contents
        self._apart = apart
        self._prefix = prefix
        self._digests: dict[bytes, str] = {}  # of photos added so far, with their names
        self._keys: set[str] = set()
        self.known = 0  # photos that are in the dataset, or belong elsewhere

    def entries(
        self, entries: Iterable[PictureSource | Skip], recode: Recode, side: Side | None
    ) -> Iterator[PackItem | SkippedFile]:
        """Yields new photos, and reasons for the others."""
        for entry in entries:
            if isinstance(entry, Skip):
                yield skipped_file(entry.file, entry.reason)
                continue
            try:
                data = entry.read()
                if side is not None and not side.contains(data):
                    self.known += 1
                    continue
                item = prepare(entry.name, data, recode, about=entry.about)
            except InputError as error:
                yield skipped_file(entry.name, str(error))
                continue
            reason = self._reason(item.data, data)
            self.known += bool(reason)
            yield skipped_file(entry.name, reason) if reason else self._named(item)

    def _reason(self, stored: bytes, original: bytes) -> str:
        """Why a photo is left out; else empty."""
        owners = [(self._contents, "duplicate: the same picture as {}")]
        owners += [(each.contents, held_out(each.name)) for each in self._apart]
        for contents, text in owners:
            # The other dataset may keep the bytes that this one converts.
            for data in dict.fromkeys([stored, original]):
                if (twin := contents.find(data)) is not None:
                    return text.format(contents.dataset.index.key_of(twin))
        digest = hashlib.sha256(stored).digest()
        return f"duplicate: the same picture as {self._digests[digest]}" if digest in self._digests else ""

    def _named(self, item: PackItem) -> PackItem:
        """Gives a photo a name of its own."""
        if self._contents.has_key(key_of(item.source)) or key_of(item.source) in self._keys:
            item = replace(item, source=self._prefix + item.source)
        self._keys.add(key_of(item.source))
        self._digests[hashlib.sha256(item.data).digest()] = item.source
        return item
