"""`isnet data pack|verify|show`: packs, checks and describes datasets."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isnet.images.files import display_name
from jobs.cli.main import emit
from jobs.cli.progress import bar
from jobs.data.layouts import LAYOUTS
from jobs.data.packing import Recode, pack_pictures
from jobs.data.sources import PictureSource, Skip, open_pictures
from jobs.data.split import Side, parse_shares, shares_text, side_of
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job, ray_session
from trainplane.data.damage import Damage
from trainplane.data.manifest import Dataset
from trainplane.data.pack.executor import LocalExecutor, PackExecutor
from trainplane.data.pack.ray_executor import RayExecutor
from trainplane.data.verify import repair
from trainplane.data.verify import verify as verify_dataset
from trainplane.errors import UserError
from trainplane.storage import open_store

# Files named in a text for each reason of skipping.
_SHOWN_FILES = 5


def pack(args: argparse.Namespace, context: Context) -> int:
    """Packs pictures into a dataset."""
    if not args.source:
        raise UserError("SRC is empty; need a folder, an s3:// address, a .txt list, a .tar or a .zip")
    source = args.source if "://" in args.source else Path(args.source).expanduser()
    # Refuse impossible options before anything is read.
    side, shares = _side(args)
    recode = Recode(args.kind, args.max_side, args.quality, "black" if args.black_is_hole else "white")
    destination = context.dataset(args.destination)
    with open_pictures(source) as pictures, _executor(args.parallel) as executor:
        dataset = pack_pictures(
            bar(_in_layout(pictures, source, args), "pack"),
            destination,
            # The default name is the last part of the address, without characters that a name cannot have.
            name=args.name or re.sub(r"[^A-Za-z0-9._-]+", "-", destination.rstrip("/").rpartition("/")[2]).strip("-."),
            split=args.split,
            shard_bytes=args.shard_bytes,
            recode=recode,
            side=side,
            how={"layout": args.layout, **shares},
            replace=args.replace,
            executor=executor,
        )
    payload = describe(dataset)
    emit(args, payload, _text(payload))
    return 0


def _side(args: argparse.Namespace) -> tuple[Side | None, dict[str, str]]:
    if args.shares is None:
        return None, {}
    # Published splits must not be mixed with ours.
    if args.layout != "folder":
        raise UserError(f"--layout {args.layout} has splits of its own; leave --shares out")
    shares = parse_shares(args.shares)
    return side_of(shares, args.split), {"shares": shares_text(shares)}


def _in_layout(
    pictures: Iterable[PictureSource | Skip], source: str | Path, args: argparse.Namespace
) -> Iterable[PictureSource | Skip]:
    """Selects the split of a dataset layout."""
    if args.layout == "folder":
        if args.lists is not None:
            raise UserError("--lists belongs to --layout places2 or celeba; leave it out, or give the layout")
        return pictures
    lists = Path(args.lists).expanduser() if args.lists is not None else None
    # Lists are searched in local folders only.
    if lists is None and isinstance(source, str):
        raise UserError(
            f"--layout {args.layout} does not search for its lists on S3; give their folder here: --lists DIR"
        )
    return LAYOUTS[args.layout](pictures, args.split, source=Path(source), lists=lists)


@contextmanager
def _executor(parallel: int | None) -> Iterator[PackExecutor]:
    """Opens the executor of packing: this process or Ray tasks."""
    if not (parallel or (parallel is None and in_ray_job())):
        yield LocalExecutor()
        return
    # In a job of a cluster the default is a task for each processor.
    with ray_session(num_cpus=parallel) as ray:
        yield RayExecutor(ray, parallel or int(ray.cluster_resources().get("CPU", 1)))


def verify(args: argparse.Namespace, context: Context) -> int:
    """Checks a dataset, or repairs it from a copy."""
    dataset = Dataset.open(context.dataset(args.dataset))
    repaired: list[Damage] = []
    if args.repair is None:
        # Reads every byte.
        damages = verify_dataset(dataset)
    else:
        before, damages = repair(dataset, open_store(context.dataset(args.repair)))
        # Shards are repaired as a whole.
        damaged_shards = {damage.shard for damage in damages}
        repaired = [damage for damage in before if damage.shard not in damaged_shards]
    payload = {"dataset": args.dataset, "sound": not damages, "damage": _rows(damages)}
    if args.repair is not None:
        payload |= {"repaired": _rows(repaired), "from": args.repair}
    lines = [f"{_line(damage)}  repaired" for damage in repaired] + [_line(damage) for damage in damages]
    lines.append(f"{len(damages)} place{'s' * (len(damages) > 1)} damaged" if damages else "sound")
    emit(args, payload, "\n".join(lines))
    # Damage is left, or was found without a repair.
    return 1 if damages else 0


def _rows(damages: Iterable[Damage]) -> list[dict[str, str]]:
    return [{"shard": damage.shard, "key": damage.key, "kind": damage.kind} for damage in damages]


def _line(damage: Damage) -> str:
    return f"{damage.shard}  {damage.key or '-'}  {damage.kind}"


def show(args: argparse.Namespace, context: Context) -> int:
    """Describes a dataset."""
    payload = describe(Dataset.open(context.dataset(args.dataset)))
    emit(args, payload, _text(payload))
    return 0


def describe(dataset: Dataset) -> dict[str, Any]:
    """Returns the output of `--json`."""
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
    """Returns the kind of a reason: `damaged` of `damaged: …`."""
    return reason.partition(":")[0]


def _text(payload: dict[str, Any]) -> str:
    lines = [
        f"{payload['name']} ({payload['split']}) at {payload['dataset']}",
        f"  {payload['samples']} samples in {payload['shards']} shards, {payload['bytes'] / 2**20:.1f} MiB",
        f"  digest {payload['digest']}",
    ]
    # Skipped files, by kind of reason.
    if payload["skipped"]:
        lines.append(f"  {len(payload['skipped'])} left out:")
    for kind, count in payload["reasons"].items():
        files = [entry for entry in payload["skipped"] if _kind(entry["reason"]) == kind]
        lines.append(f"    {count} {display_name(kind)}")
        # A manifest may come from anywhere, so control characters in it must not reach the terminal.
        lines += [
            display_name(f"      {entry['file']}{entry['reason'].removeprefix(kind)}") for entry in files[:_SHOWN_FILES]
        ]
        if count > _SHOWN_FILES:
            lines.append(f"      and {count - _SHOWN_FILES} more: --json lists all")
    return "\n".join(lines)
