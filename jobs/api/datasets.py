"""Packs datasets: `isnet data pack`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from jobs.api.session import session
from jobs.cli.progress import bar
from jobs.cluster.processors import cluster_tasks
from jobs.data.catalogue import check_replaceable
from jobs.data.layouts import LAYOUTS
from jobs.data.packing import Recode, pack_pictures
from jobs.data.sources import PictureSource, Skip, open_pictures
from jobs.data.split import Side, parse_shares, shares_text, side_of
from jobs.data.trace_pictures import is_trace_source, trace_pictures
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.data.pack.executor import LocalExecutor, PackExecutor
from trainplane.data.pack.ray_executor import RayExecutor
from trainplane.errors import UserError

SHARD_BYTES = 64 * 2**20


def pack(
    source: str | os.PathLike[str],
    destination: str,
    *,
    name: str | None = None,
    layout: Literal["folder", "places2", "celeba"] = "folder",
    lists: str | os.PathLike[str] | None = None,
    split: str = "all",
    shares: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    max_side: int | None = None,
    quality: int = 90,
    kind: Literal["photos", "masks"] = "photos",
    black_is_hole: bool = False,
    verdict: str | None = None,
    replace: bool = False,
    parallel: int | None = None,
    context: Context | str | None = None,
) -> Dataset:
    """Packs pictures into a dataset.

    Pictures that cannot be used are left out, and listed with their reasons in `Dataset.skipped`.

    Args:
        source: Folder, s3:// prefix, list of paths (.txt), .tar or .zip; traces:NAME is what people gave to `serve`.
        destination: Name in the dataset store, a folder or an s3:// prefix.
        name: Of the dataset; by default the last part of the destination.
        layout: Lists and splits of a published dataset.
        lists: Folder of a layout's lists; by default in the source and beside it.
        split: A layout's split, the side of `shares`, or just what this is.
        shares: Pack one side only, such as "train=95,val=5".
        shard_bytes: Size of a shard, approximate.
        max_side: Shrink larger pictures to this side, pixels.
        quality: Of JPEG that is encoded again, 1 to 100.
        kind: "masks" are white where the hole is.
        black_is_hole: Black, not white, marks the hole.
        verdict: Only traces with this vote: good, bad, tie, neither or golden.
        replace: Replace a dataset of other content.
        parallel: Tasks of Ray; 0 is this process.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: No picture can be used, or the destination holds something else.
    """
    if not os.fspath(source):
        raise UserError("SRC is empty; need a folder, an s3:// address, a .txt list, a .tar or a .zip")
    if verdict is not None and not is_trace_source(source):
        raise UserError(f"--verdict chooses among traces, and SRC is {source}; give traces:NAME, or leave it out")
    is_address = "://" in str(source) or is_trace_source(source)
    place = str(source) if is_address else Path(source).expanduser()
    # Refuse impossible options before anything is read.
    side, described = _side(layout, shares, split)
    recode = Recode(kind, max_side, quality, "black" if black_is_hole else "white")
    with session(context, is_long=True) as opened:
        address = opened.dataset(destination)
        if replace:
            check_replaceable(address, opened.datasets)
        with _pictures(opened, place, verdict, kind) as pictures, _executor(parallel) as executor:
            return pack_pictures(
                bar(_in_layout(pictures, place, layout, lists, split), "pack"),
                address,
                # The default name is the last part of the address, without characters that a name cannot have.
                name=name or re.sub(r"[^A-Za-z0-9._-]+", "-", address.rstrip("/").rpartition("/")[2]).strip("-."),
                split=split,
                shard_bytes=shard_bytes,
                recode=recode,
                side=side,
                how={"layout": layout, **described},
                replace=replace,
                executor=executor,
            )


@contextmanager
def _pictures(
    context: Context, place: str | Path, verdict: str | None, kind: Literal["photos", "masks"]
) -> Iterator[Iterable[PictureSource | Skip]]:
    if is_trace_source(place):
        yield trace_pictures(context.tracking_server, str(place), verdict=verdict, kind=kind)
    else:
        with open_pictures(place) as pictures:
            yield pictures


def _side(layout: str, shares: str | None, split: str) -> tuple[Side | None, dict[str, str]]:
    if shares is None:
        return None, {}
    # Published splits must not be mixed with ours.
    if layout != "folder":
        raise UserError(f"--layout {layout} has splits of its own; leave --shares out")
    parsed = parse_shares(shares)
    return side_of(parsed, split), {"shares": shares_text(parsed)}


def _in_layout(
    pictures: Iterable[PictureSource | Skip],
    source: str | Path,
    layout: str,
    lists: str | os.PathLike[str] | None,
    split: str,
) -> Iterable[PictureSource | Skip]:
    """Selects the split of a dataset layout."""
    if layout == "folder":
        if lists is not None:
            raise UserError("--lists belongs to --layout places2 or celeba; leave it out, or give the layout")
        return pictures
    # Lists are searched in local folders only.
    if lists is None and isinstance(source, str):
        raise UserError(f"--layout {layout} does not search for its lists on S3; give their folder here: --lists DIR")
    folder = Path(lists).expanduser() if lists is not None else None
    return LAYOUTS[layout](pictures, split, source=Path(source), lists=folder)


@contextmanager
def _executor(parallel: int | None) -> Iterator[PackExecutor]:
    """Opens the executor of packing: this process or Ray tasks."""
    with cluster_tasks(parallel) as cluster:
        yield LocalExecutor() if cluster is None else RayExecutor(*cluster)
