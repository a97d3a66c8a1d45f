"""`isnet data add|remove|merge|subset`: datasets out of others."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.cli.main import emit
from jobs.commands.data import describe, describe_text
from trainplane.cluster.context import Context
from trainplane.data.grow.lineage import lineage_of
from trainplane.data.grow.selection import sample_share, samples_named
from trainplane.data.grow.versions import pinned
from trainplane.data.manifest import Dataset
from trainplane.data.named import open_dataset
from trainplane.data.shard import is_inherited
from trainplane.errors import UserError


@dataclass(frozen=True)
class Growth:
    """Bytes and samples of a step."""

    copied: int  # bytes of shards and index that were written
    shared: int  # bytes of shards that others have
    difference: int  # samples more than the dataset before

    @classmethod
    def between(cls, before: Dataset, after: Dataset) -> Growth:
        """Compares a dataset with the one before."""
        shared = sum(shard.bytes for shard in after.shards if is_inherited(shard.name))
        written = 0 if after.digest == before.digest else after.bytes - shared + after.manifest.index_bytes
        return cls(written, shared, after.num_samples - before.num_samples)


def add(args: argparse.Namespace, context: Context) -> int:
    """Adds photos to a dataset, as its next version."""
    from jobs.cli.progress import bar
    from jobs.data.grow import add_photos, apart_from
    from jobs.data.sources import open_pictures

    dataset = open_dataset(args.dataset, context)
    source = args.source if "://" in args.source else Path(args.source).expanduser()
    apart, names = apart_from(dataset, args.apart_from, context)
    with open_pictures(source) as pictures:
        grown = add_photos(dataset, bar(pictures, "add"), apart=apart, apart_names=names)
    return _emit(args, dataset, grown)


def remove(args: argparse.Namespace, context: Context) -> int:
    """Removes samples from a dataset, as its next version."""
    from jobs.data.grow import remove_samples

    dataset = open_dataset(args.dataset, context)
    removed = samples_named(dataset, _lines(args.keys))
    return _emit(args, dataset, remove_samples(dataset, removed, rewrite=args.rewrite))


def merge(args: argparse.Namespace, context: Context) -> int:
    """Adds another dataset's samples, as the next version."""
    from jobs.data.grow import apart_from, merge_datasets

    dataset, joined = open_dataset(args.dataset, context), open_dataset(args.other, context)
    lineage = lineage_of(joined)
    theirs = list(lineage.facts.get("apart", [])) if lineage else []
    apart, names = apart_from(dataset, [*args.apart_from, *theirs], context)
    return _emit(args, dataset, merge_datasets(dataset, joined, apart=apart, apart_names=names))


def subset(args: argparse.Namespace, context: Context) -> int:
    """Makes a dataset of some samples of another."""
    from jobs.data.grow import subset as subset_of

    if (args.fraction is None) == (args.keys is None):
        raise UserError("a subset is by --fraction 0.1 or by --keys FILE; give one of them")
    dataset = open_dataset(args.dataset, context)
    facts: dict[str, Any] = {}
    if args.keys is not None:
        chosen = samples_named(dataset, _lines(args.keys))
    else:
        chosen = sample_share(dataset, args.fraction, seed=args.seed)
        facts = {"fraction": args.fraction, "seed": args.seed}
    destination = context.dataset(args.destination)
    name = destination.rstrip("/").rpartition("/")[2]
    return _emit(args, dataset, subset_of(dataset, chosen, destination, name=name, facts=facts))


def _lines(file: str) -> list[str]:
    from jobs.data.sources import read_lines

    path = Path(file).expanduser()
    lines = read_lines(path)
    if not lines:
        raise UserError(f"{path}: has no key; write one on each line")
    return lines


def _emit(args: argparse.Namespace, before: Dataset, after: Dataset) -> int:
    growth = Growth.between(before, after)
    payload = {**describe(after), "before": before.digest, "difference": growth.difference}
    payload |= {"bytes_copied": growth.copied, "bytes_shared": growth.shared}
    if after.digest == before.digest:
        text = f"nothing new: {pinned(after.address)} has all of it already"
        emit(args, payload, text)
        return 0
    sharing = f"  {_mebibytes(growth.copied)} written, {_mebibytes(growth.shared)} shared with {pinned(before.address)}"
    count = f"  {growth.difference:+d} samples" if growth.difference else "  no more and no fewer samples"
    emit(args, payload, "\n".join([describe_text(payload), sharing, count]))
    return 0


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"
