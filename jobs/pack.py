"""`isnet data pack|verify|show`: photos to shards, re-checking them, describing them."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.cli import emit
from jobs.packing import Recode, pack_pictures
from jobs.progress import bar
from jobs.sources import Skip, Source, pictures_of
from trainplane.cluster.context import resolve
from trainplane.data.manifest import Dataset
from trainplane.data.verify import verify as verify_dataset


def pack(args: argparse.Namespace) -> int:
    """`isnet data pack SRC DEST`"""
    context = resolve(args.context)
    context.activate()
    destination = context.dataset(args.destination)
    dataset = pack_pictures(
        _shown(pictures_of(Path(args.source).expanduser())),
        destination,
        name=args.name or re.sub(r"[^A-Za-z0-9._-]+", "-", destination.rstrip("/").rpartition("/")[2]).strip("-."),
        split=args.split,
        shard_bytes=args.shard_bytes,
        recode=Recode(args.kind, args.max_side, args.quality),
        replace=args.replace,
    )
    payload = describe(dataset)
    emit(args, payload, _text(payload))
    return 0


def _shown(found: Iterable[Source | Skip]) -> Iterator[Source | Skip]:
    yield from bar(found, "pack")


def verify(args: argparse.Namespace) -> int:
    """`isnet data verify DATASET`: exit 1 where damage is found."""
    context = resolve(args.context)
    context.activate()
    damage = verify_dataset(Dataset.open(context.dataset(args.dataset)))
    found = [{"shard": d.shard, "key": d.key, "kind": d.kind} for d in damage]
    lines = [f"{d['shard']}  {d['key'] or '-'}  {d['kind']}" for d in found]
    text = "\n".join([*lines, f"{len(found)} places damaged"]) if found else "sound"
    emit(args, {"dataset": args.dataset, "sound": not found, "damage": found}, text)
    return 1 if found else 0


def show(args: argparse.Namespace) -> int:
    """`isnet data show DATASET`"""
    context = resolve(args.context)
    context.activate()
    payload = describe(Dataset.open(context.dataset(args.dataset)))
    emit(args, payload, _text(payload))
    return 0


def describe(dataset: Dataset) -> dict[str, Any]:
    """What `--json` prints of a dataset."""
    return {
        "dataset": dataset.address,
        "name": dataset.name,
        "split": dataset.split,
        "digest": dataset.digest,
        "samples": dataset.num_samples,
        "shards": dataset.num_shards,
        "bytes": dataset.bytes,
        "skipped": [asdict(entry) for entry in dataset.skipped],
    }


def _text(payload: dict[str, Any]) -> str:
    lines = [
        f"{payload['name']} ({payload['split']}) at {payload['dataset']}",
        f"  {payload['samples']} samples in {payload['shards']} shards, {payload['bytes'] / 2**20:.1f} MiB",
        f"  digest {payload['digest']}",
    ]
    reasons = Counter(entry["reason"].partition(":")[0] for entry in payload["skipped"])
    if reasons:
        lines.append(
            f"  {len(payload['skipped'])} left out: " + ", ".join(f"{n} {r}" for r, n in reasons.most_common())
        )
        lines += [f"    {entry['file']}: {entry['reason']}" for entry in payload["skipped"][:10]]
    return "\n".join(lines)
