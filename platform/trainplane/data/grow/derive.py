"""Writes a dataset that shares the samples of others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from trainplane.data.grow.inheritance import Inheritance, other_store
from trainplane.data.grow.lineage import KEY, Lineage, Parent, ancestors_of
from trainplane.data.manifest import MANIFEST_NAME, Dataset
from trainplane.data.pack.executor import Entry
from trainplane.data.pack.pack import DEFAULT_SHARD_BYTES, pack
from trainplane.data.shard import relative_name
from trainplane.errors import UserError

# Options of a packing by which two datasets are of one kind; others may differ between them.
_SAME = ("kind", "layout", "shares")


def derive(
    inherited: Sequence[Inheritance],
    destination: str,
    *,
    how: str,
    name: str,
    facts: Mapping[str, Any] = MappingProxyType({}),
    entries: Iterable[Entry] = (),
    needs_new: bool = False,
) -> Dataset:
    """Stores a dataset of samples of others, and new ones.

    Like every packing, it writes the manifest last, and goes on where a killed one stopped. No object of the others is
    touched.

    Args:
        inherited: Samples of the datasets that it grows out of, the first one's options being its own.
        destination: Address of a folder that has no dataset yet.
        how: "add", "remove", "merge" or "subset".
        name: Of the dataset.
        facts: JSON values about the step, for the manifest.
        entries: Samples to store, and files that are left out.
        needs_new: True raises `NothingNew` unless one of the entries is packed.
    """
    datasets = [inheritance.dataset for inheritance in inherited]
    first = datasets[0]
    parents = []
    for dataset in datasets:
        relative = relative_name(dataset.address, destination)
        if relative is None:
            raise other_store(dataset, destination)
        parents.append(Parent(relative, dataset.digest))
    lineage = Lineage(how, tuple(parents), ancestors_of(datasets), facts)
    options = {option: value for option, value in first.manifest.packed.items() if option not in (KEY, "shard_bytes")}
    derived = pack(
        entries,
        destination,
        name=name,
        split=first.split,
        shard_bytes=int(first.manifest.packed.get("shard_bytes", DEFAULT_SHARD_BYTES)),
        how={**options, KEY: lineage.to_json()},
        inherited=inherited,
        needs_new=needs_new,
    )
    # Its manifest stands, then it looks: who removes a dataset hides it, then looks for those that share its shards.
    for dataset in datasets:
        if dataset.store.size(MANIFEST_NAME) is None:
            derived.store.delete(MANIFEST_NAME)
            raise UserError(f"{dataset.address} was removed meanwhile; name a version that is there")
    return derived


def check_same_kind(first: Dataset, second: Dataset) -> None:
    """Raises `UserError` unless two datasets can be one."""
    facts: list[tuple[str, Any, Any]] = [("split", first.split, second.split)]
    packed = first.manifest.packed, second.manifest.packed
    facts += [(option, packed[0].get(option), packed[1].get(option)) for option in _SAME]
    for option, ours, theirs in facts:
        if ours != theirs:
            reason = "a photo could change its side" if option in ("split", "shares") else "they do not mix"
            raise UserError(
                f"{first.name} has {option} {ours or 'none'} and {second.name} has {theirs or 'none'}: {reason}; "
                f"merge sets that were packed alike, or pack the photos of {second.name} again, as {first.name} was"
            )
    if first.digest == second.digest:
        raise UserError(f"{first.name} and {second.name} are the same dataset, {first.digest[:12]}; name another one")
