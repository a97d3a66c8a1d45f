"""`isnet data pack|verify|show`: photos to shards, re-checking them, describing them."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isnet.images.files import shown
from jobs.cli.main import emit
from jobs.cli.progress import bar
from jobs.data.layouts import LAYOUTS
from jobs.data.packing import Recode, pack_pictures
from jobs.data.sources import Skip, Source, pictures_of
from jobs.data.split import Side, described, read_shares, side_of
from trainplane.cluster.context import resolve
from trainplane.cluster.ray_session import in_ray_job, ray_session
from trainplane.data.damage import Damage
from trainplane.data.manifest import Dataset
from trainplane.data.pack.executor import Alone, Crew
from trainplane.data.pack.ray_executor import Tasks
from trainplane.data.verify import repair
from trainplane.data.verify import verify as verify_dataset
from trainplane.errors import UserError
from trainplane.storage import open_store


def pack(args: argparse.Namespace) -> int:
    """`isnet data pack SRC DEST`"""
    context = resolve(args.context)
    context.activate()
    if not args.source:
        raise UserError("SRC is empty; need a folder, an s3:// address, a .txt list, a .tar or a .zip")
    source = args.source if "://" in args.source else Path(args.source).expanduser()
    side, shares = _side(args)
    recode = Recode(args.kind, args.max_side, args.quality, "black" if args.black_is_hole else "white")
    destination = context.dataset(args.destination)
    with pictures_of(source) as found, _crew(args.parallel) as crew:
        dataset = pack_pictures(
            _shown(_laid_out(found, source, args)),
            destination,
            name=args.name or re.sub(r"[^A-Za-z0-9._-]+", "-", destination.rstrip("/").rpartition("/")[2]).strip("-."),
            split=args.split,
            shard_bytes=args.shard_bytes,
            recode=recode,
            side=side,
            how={"layout": args.layout, **shares},
            replace=args.replace,
            crew=crew,
        )
    payload = describe(dataset)
    emit(args, payload, _text(payload))
    return 0


def _side(args: argparse.Namespace) -> tuple[Side | None, dict[str, str]]:
    if args.shares is None:
        return None, {}
    if args.layout != "folder":
        raise UserError(f"--layout {args.layout} has splits of its own; leave --shares out")
    shares = read_shares(args.shares)
    return side_of(shares, args.split), {"shares": described(shares)}


def _laid_out(found: Iterable[Source | Skip], source: str | Path, args: argparse.Namespace) -> Iterable[Source | Skip]:
    if args.layout == "folder":
        if args.lists is not None:
            raise UserError("--lists belongs to --layout places2 or celeba; leave it out, or give the layout")
        return found
    lists = Path(args.lists).expanduser() if args.lists is not None else None
    if lists is None and isinstance(source, str):
        raise UserError(
            f"the lists of --layout {args.layout} are not looked for on S3; give a folder here: --lists DIR"
        )
    return LAYOUTS[args.layout](found, args.split, place=Path(source), lists=lists)


@contextmanager
def _crew(parallel: int | None) -> Iterator[Crew]:
    """This process, or `parallel` Ray tasks; in a job of a cluster as many as it has processors, unless told."""
    if not (parallel or (parallel is None and in_ray_job())):
        yield Alone()
        return
    with ray_session(num_cpus=parallel) as ray:
        yield Tasks(ray, parallel or int(ray.cluster_resources().get("CPU", 1)))


def _shown(found: Iterable[Source | Skip]) -> Iterator[Source | Skip]:
    yield from bar(found, "pack")


def verify(args: argparse.Namespace) -> int:
    """`isnet data verify DATASET [--repair FROM]`: exit 1 where damage is found, or is left after the repair."""
    context = resolve(args.context)
    context.activate()
    dataset = Dataset.open(context.dataset(args.dataset))
    if args.repair is None:
        found = verify_dataset(dataset)
        mended: list[Damage] = []
    else:
        before, found = repair(dataset, open_store(context.dataset(args.repair)))
        left = {damage.shard for damage in found}
        mended = [damage for damage in before if damage.shard not in left]
    payload = {"dataset": args.dataset, "sound": not found, "damage": _plain(found)}
    if args.repair is not None:
        payload |= {"repaired": _plain(mended), "from": args.repair}
    lines = [f"{_line(damage)}  repaired" for damage in mended] + [_line(damage) for damage in found]
    lines.append(f"{len(found)} place{'s' * (len(found) > 1)} damaged" if found else "sound")
    emit(args, payload, "\n".join(lines))
    return 1 if found else 0


def _plain(damage: Iterable[Damage]) -> list[dict[str, str]]:
    return [{"shard": one.shard, "key": one.key, "kind": one.kind} for one in damage]


def _line(damage: Damage) -> str:
    return f"{damage.shard}  {damage.key or '-'}  {damage.kind}"


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
        "packed": dict(dataset.manifest.packed),
        "reasons": dict(Counter(_kind(entry.reason) for entry in dataset.skipped).most_common()),
        "skipped": [asdict(entry) for entry in dataset.skipped],
    }


def _kind(reason: str) -> str:
    """What reasons of one kind begin with: `damaged` of `damaged: …`."""
    return reason.partition(":")[0]


def _text(payload: dict[str, Any]) -> str:
    lines = [
        f"{payload['name']} ({payload['split']}) at {payload['dataset']}",
        f"  {payload['samples']} samples in {payload['shards']} shards, {payload['bytes'] / 2**20:.1f} MiB",
        f"  digest {payload['digest']}",
    ]
    if payload["skipped"]:
        lines.append(f"  {len(payload['skipped'])} left out:")
    for kind, count in payload["reasons"].items():
        files = [entry for entry in payload["skipped"] if _kind(entry["reason"]) == kind]
        lines.append(f"    {count} {shown(kind)}")
        # A manifest may be anybody's: nothing in it may steer the terminal.
        lines += [shown(f"      {entry['file']}{entry['reason'].removeprefix(kind)}") for entry in files[:_SHOWN]]
        if count > _SHOWN:
            lines.append(f"      and {count - _SHOWN} more: --json lists all")
    return "\n".join(lines)


_SHOWN = 5
