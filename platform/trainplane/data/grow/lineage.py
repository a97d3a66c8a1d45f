"""Lineage of a dataset: its parents, and the step between.

It stands in the manifest, under `packed.grown`, and so is part of the digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainplane.data.manifest import Dataset

KEY = "grown"


@dataclass(frozen=True)
class Parent:
    """A dataset whose shards another one shares."""

    dataset: str  # its address relative to the other's folder
    digest: str


@dataclass(frozen=True)
class Lineage:
    """Parents of a dataset, and the step between."""

    how: str  # "add", "remove", "merge" or "subset"
    parents: tuple[Parent, ...]
    ancestors: tuple[str, ...]  # digests of the parents and of all before them
    facts: Mapping[str, Any] = field(default_factory=dict)  # JSON values about the step

    def to_json(self) -> dict[str, Any]:
        """Returns the entry of the manifest."""
        parents = [{"dataset": parent.dataset, "digest": parent.digest} for parent in self.parents]
        return {**self.facts, "how": self.how, "parents": parents, "ancestors": list(self.ancestors)}


def lineage_of(dataset: Dataset) -> Lineage | None:
    """Reads a dataset's lineage; None for one that was packed."""
    grown = dataset.manifest.packed.get(KEY)
    if not isinstance(grown, Mapping):
        return None
    try:
        parents = tuple(Parent(str(entry["dataset"]), str(entry["digest"])) for entry in grown["parents"])
        ancestors = tuple(str(digest) for digest in grown["ancestors"])
    except (LookupError, TypeError):
        # A manifest may come from anywhere: what is no lineage of ours is none.
        return None
    fields = {"how", "parents", "ancestors"}
    return Lineage(str(grown.get("how", "")), parents, ancestors, {k: v for k, v in grown.items() if k not in fields})


def ancestors_of(datasets: Sequence[Dataset]) -> tuple[str, ...]:
    """Digests of datasets and of all their ancestors."""
    digests: dict[str, None] = {}
    for dataset in datasets:
        lineage = lineage_of(dataset)
        for digest in (*(lineage.ancestors if lineage else ()), dataset.digest):
            digests[digest] = None
    return tuple(digests)
