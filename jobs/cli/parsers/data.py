"""Arguments of `isnet demo` and `isnet data`."""

from __future__ import annotations

import argparse
from typing import Any

from jobs.cli.arg_types import command, count, group, port, size, whole


def demo(commands: Any) -> None:
    """Adds `isnet demo`."""
    parser = command(
        commands,
        "demo",
        "commands.demo:demo",
        "from photos to a promoted model on this machine, small, in a few minutes",
    )
    # What is trained, and for how long.
    parser.add_argument("--photos", metavar="DIR", help="folder of photos (default: those of installed packages)")
    parser.add_argument("--steps", type=count, metavar="N", help="training steps (default: the preset's)")
    parser.add_argument("--fresh", action="store_true", help="start a new run instead of resuming")
    parser.add_argument(
        "--from-scratch",
        action="store_true",
        help="train a fresh network with every term of Eq. 2, instead of going on from the starter",
    )
    parser.add_argument(
        "--port", type=port, default=0, metavar="N", help="port of the object store (default: a free one)"
    )


def data(commands: Any) -> None:
    """Adds `isnet data`."""
    actions = group(commands, "data", "photos to shards, and what is in them")
    pack = command(actions, "pack", "commands.data:pack", "photos (folder, list, tar, zip) to shards with a manifest")
    pack.add_argument(
        "source",
        metavar="SRC",
        help="folder, s3://bucket/prefix, .txt list of paths, .tar or .zip; traces:NAME: what was given to serve",
    )
    pack.add_argument(
        "destination", metavar="DEST", help="s3://bucket/prefix, a folder, or a name in the dataset store"
    )
    pack.add_argument("--name", help="name of the dataset (default: last part of DEST)")
    pack.add_argument(
        # Published datasets have lists and splits of their own.
        "--layout",
        choices=("folder", "places2", "celeba"),
        default="folder",
        help="lists and splits of SRC",
    )
    pack.add_argument("--lists", metavar="DIR", help="where a layout's lists are (default: in SRC and beside it)")
    pack.add_argument(
        "--split", default="all", help="a layout's split, the side of --shares, or just what this is (default: all)"
    )
    pack.add_argument(
        # Own splits, by the digest of each picture.
        "--shares",
        metavar="A=PCT,B=PCT",
        help="pack only the side --split, such as train=95,val=5; a picture's side follows from its bytes alone",
    )
    # Size and encoding.
    pack.add_argument("--shard-bytes", type=size, default=64 * 2**20, metavar="SIZE", help="approximate, default 64M")
    pack.add_argument("--max-side", type=count, metavar="PX", help="shrink larger pictures and re-encode them as JPEG")
    pack.add_argument("--quality", type=count, default=90, metavar="1-100", help="of re-encoded JPEG, default 90")
    pack.add_argument("--kind", choices=("photos", "masks"), default="photos", help="masks: white = hole, PNG")
    pack.add_argument("--black-is-hole", action="store_true", help="black, not white, marks the hole")
    pack.add_argument(
        "--verdict",
        choices=("good", "bad", "tie", "neither", "golden"),
        help="of traces:NAME, only what people said this of",
    )
    _add_parallel(pack)
    pack.add_argument("--replace", action="store_true", help="replace a dataset of other content at DEST")
    verify = command(actions, "verify", "commands.data:verify", "re-check every byte of a dataset")
    verify.add_argument("dataset", metavar="DATASET")
    # Only objects with the recorded sha256 are taken from the copy.
    verify.add_argument("--repair", metavar="FROM", help="replace damaged samples from this copy")
    _add_parallel(verify)
    _add_growing(actions)
    command(actions, "list", "commands.data:list_all", "datasets of the context's store")
    show = command(actions, "show", "commands.data:show", "describe a dataset")
    show.add_argument("dataset", metavar="DATASET")


def _add_growing(actions: Any) -> None:
    """Adds the commands that make datasets out of others."""
    add = command(actions, "add", "commands.data_grow:add", "more photos, as the dataset's next version")
    add.add_argument("dataset", metavar="DATASET")
    add.add_argument("source", metavar="SRC", help="folder, s3://bucket/prefix, .txt list of paths, .tar or .zip")
    _add_apart(add)
    remove = command(actions, "remove", "commands.data_grow:remove", "fewer photos, as the dataset's next version")
    remove.add_argument("dataset", metavar="DATASET")
    remove.add_argument("--keys", metavar="FILE", required=True, help="keys, or the paths they were packed from")
    remove.add_argument(
        "--rewrite",
        action="store_true",
        help="store their shards again without them; else their bytes stay in the tars",
    )
    merge = command(actions, "merge", "commands.data_grow:merge", "another dataset's photos, as DATASET's next version")
    merge.add_argument("dataset", metavar="DATASET")
    merge.add_argument("other", metavar="OTHER")
    _add_apart(merge)
    subset = command(actions, "subset", "commands.data_grow:subset", "some photos of a dataset, as another one")
    subset.add_argument("dataset", metavar="DATASET")
    subset.add_argument("destination", metavar="DEST", help="a name in the dataset store, a folder or an address")
    subset.add_argument(
        "--fraction", type=float, metavar="F", help="share of the photos, 0 to 1; a photo's key decides"
    )
    subset.add_argument("--seed", type=whole, default=0, metavar="N", help="of --fraction: another one chooses others")
    subset.add_argument("--keys", metavar="FILE", help="keys, or the paths they were packed from")


def _add_apart(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--apart-from",
        action="append",
        default=[],
        metavar="OTHER",
        help="leave out photos that were ever in this dataset, such as the held-out one; `none`: there is no such set",
    )


def _add_parallel(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        # Without the option, a job of a cluster uses the whole cluster.
        "--parallel",
        type=whole,
        metavar="N",
        help="Ray tasks at once; 0: this process (default: 0, in a job of a cluster all its processors)",
    )
