"""`isnet data pack|verify|list|show`: packs, checks and describes datasets."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from isnet.images.files import display_name
from isnet.images.folders import with_advice
from jobs.cli.format import quantity
from jobs.cli.main import emit
from jobs.data.catalogue import list_datasets, picture_sizes
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.damage import Damage
from trainplane.data.grow.versions import VersionName
from trainplane.data.manifest import Dataset
from trainplane.data.named import open_dataset
from trainplane.errors import UserError
from trainplane.storage import open_store

# What only packing needs is imported there: torch and Ray take seconds.
if TYPE_CHECKING:
    from trainplane.data.verify import ShardChecks

# Files named in a text for each reason of skipping.
_SHOWN_FILES = 5


def pack(args: argparse.Namespace, context: Context) -> int:
    """Packs pictures into a dataset."""
    from jobs.api.datasets import pack as pack_dataset

    dataset = pack_dataset(
        args.source,
        args.destination,
        name=args.name,
        layout=args.layout,
        lists=args.lists,
        split=args.split,
        shares=args.shares,
        shard_bytes=args.shard_bytes,
        max_side=args.max_side,
        quality=args.quality,
        kind=args.kind,
        black_is_hole=args.black_is_hole,
        verdict=args.verdict,
        replace=args.replace,
        parallel=args.parallel,
        context=context,
    )
    payload = describe(dataset)
    emit(args, payload, describe_text(payload))
    return 0


@contextmanager
def _checks(parallel: int | None) -> Iterator[ShardChecks]:
    """Opens checks of shards, in this process or Ray tasks."""
    from jobs.cluster.processors import cluster_tasks
    from trainplane.data.verify import one_after_the_other
    from trainplane.data.verify_tasks import checks_by_tasks

    with cluster_tasks(parallel) as cluster:
        yield one_after_the_other if cluster is None else checks_by_tasks(*cluster)


def verify(args: argparse.Namespace, context: Context) -> int:
    """Checks a dataset, or repairs it from a copy."""
    from trainplane.data.verify import repair
    from trainplane.data.verify import verify as verify_dataset

    if args.repair is not None and args.parallel:
        check = command_line("data", "verify", args.dataset, "--parallel", str(args.parallel))
        raise UserError(f"--repair runs in this process; leave --parallel out, and check afterwards with `{check}`")
    dataset = open_dataset(args.dataset, context)
    repaired: list[Damage] = []
    if args.repair is None:
        # Reads every byte.
        with _checks(args.parallel) as checks:
            damages = verify_dataset(dataset, checks=checks)
    else:
        before, damages = repair(dataset, open_store(context.dataset(args.repair)))
        # Shards are repaired as a whole.
        damaged_shards = {damage.shard for damage in damages}
        repaired = [damage for damage in before if damage.shard not in damaged_shards]
    payload = {
        "dataset": args.dataset,
        "sound": not damages,
        "samples": dataset.num_samples,
        "shards": dataset.num_shards,
        "bytes": dataset.bytes,
        "damage": _rows(damages),
    }
    if args.repair is not None:
        payload |= {"repaired": _rows(repaired), "from": args.repair}
    lines = [f"{_line(damage)}  repaired" for damage in repaired] + [_line(damage) for damage in damages]
    checked = f"{_extent(dataset)} checked, digest {dataset.digest[:12]}"
    lines.append(
        f"{len(damages)} place{'s' * (len(damages) > 1)} damaged; {checked}" if damages else f"sound: {checked}"
    )
    emit(args, payload, "\n".join(lines))
    # Damage is left, or was found without a repair.
    return 1 if damages else 0


def _rows(damages: Iterable[Damage]) -> list[dict[str, str]]:
    return [{"shard": damage.shard, "key": damage.key, "kind": damage.kind} for damage in damages]


def _line(damage: Damage) -> str:
    return f"{damage.shard}  {damage.key or '-'}  {damage.kind}"


def show(args: argparse.Namespace, context: Context) -> int:
    """Describes a dataset."""
    payload = describe(open_dataset(args.dataset, context))
    emit(args, payload, describe_text(payload))
    return 0


def list_all(args: argparse.Namespace, context: Context) -> int:
    """Lists the datasets of the context's store."""
    rows: list[dict[str, Any]] = []
    lines = []
    for listed in list_datasets(context.datasets):
        if (dataset := listed.dataset) is None:
            rows.append({"dataset": listed.name, "error": listed.fault})
            lines.append(f"{display_name(listed.name):<24} cannot be opened: {listed.fault}")
            continue
        row: dict[str, Any] = {"dataset": listed.name, "name": dataset.name, "split": dataset.split}
        row["digest"] = dataset.digest
        row |= {"kind": dataset.manifest.packed.get("kind", "photos"), "samples": dataset.num_samples}
        rows.append(row | {"shards": dataset.num_shards, "bytes": dataset.bytes})
        lines.append(
            f"{display_name(listed.name):<24} {row['kind']:<7} {_extent(dataset)}  {row['digest'][:12]}  {row['split']}"
        )
    lines = lines or [f"no datasets in {context.datasets}; pack one: {command_line('data', 'pack', 'SRC', 'NAME')}"]
    emit(args, {"store": context.datasets, "datasets": rows}, "\n".join(lines))
    return 0


def _extent(dataset: Dataset) -> str:
    samples, shards = quantity(dataset.num_samples, "sample"), quantity(dataset.num_shards, "shard")
    return f"{samples}, {shards}, {dataset.bytes / 2**20:.1f} MiB"


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns the output of `--json`."""
    sizes = picture_sizes(dataset)
    return {
        "dataset": dataset.address,
        "name": dataset.name,
        "split": dataset.split,
        "digest": dataset.digest,
        "version": VersionName.of(dataset.address).number,
        "samples": dataset.num_samples,
        "shards": dataset.num_shards,
        "bytes": dataset.bytes,
        "sizes": sizes and asdict(sizes),
        "packed": dict(dataset.manifest.packed),
        "reasons": dict(Counter(_kind(entry.reason) for entry in dataset.skipped).most_common()),
        "skipped": [asdict(entry) for entry in dataset.skipped],
    }


def _kind(reason: str) -> str:
    """Returns the kind of a reason: `damaged` of `damaged: …`."""
    return reason.partition(":")[0]


def describe_text(payload: dict[str, Any]) -> str:
    """Returns the output without `--json`."""
    samples, shards = quantity(payload["samples"], "sample"), quantity(payload["shards"], "shard")
    each = f", {payload['bytes'] / 1024 / payload['samples']:.1f} KiB each" if payload["samples"] else ""
    lines = [
        f"{payload['name']} ({payload['split']}) at {payload['dataset']}",
        f"  {samples} in {shards}, {payload['bytes'] / 2**20:.1f} MiB{each}",
        f"  digest {payload['digest']}",
    ]
    if (grown := payload["packed"].get("grown")) is not None:
        parents = ", ".join(parent["digest"][:12] for parent in grown["parents"])
        lines.append(f"  version {payload['version']}, by {display_name(grown['how'])} from {parents}")
    if (sizes := payload["sizes"]) is not None:
        # Width and height.
        extents = ["x".join(map(str, sizes[name])) for name in ("smallest", "largest")]
        extent = " to ".join(dict.fromkeys(extents))
        all_of = "all" if sizes["looked_at"] == payload["samples"] else f"{sizes['looked_at']} of them"
        lines.append(f"  pictures of {extent} pixels ({all_of} looked at)")
    # Skipped files, by kind of reason.
    if payload["skipped"]:
        lines.append(f"  {len(payload['skipped'])} left out:")
    for kind, count in payload["reasons"].items():
        files = [entry for entry in payload["skipped"] if _kind(entry["reason"]) == kind]
        lines.append(f"    {count} {display_name(with_advice(kind))}")
        # A manifest may come from anywhere, so control characters in it must not reach the terminal.
        lines += [
            display_name(f"      {entry['file']}{entry['reason'].removeprefix(kind)}") for entry in files[:_SHOWN_FILES]
        ]
        if count > _SHOWN_FILES:
            lines.append(f"      and {count - _SHOWN_FILES} more: --json lists all")
    return "\n".join(lines)
