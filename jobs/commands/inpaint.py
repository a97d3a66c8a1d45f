"""`isnet inpaint IMAGE MASK -o OUT`: fills holes of pictures.

Pictures that cannot be filled are reported with their reasons; the others are filled, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isnet.images.files import display_name, read_bytes
from isnet.images.provenance import read_credentials
from jobs.api.filling import fill_files
from jobs.cli.format import quantity
from jobs.cli.main import emit
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError


def inpaint(args: argparse.Namespace, context: Context) -> int:
    """Fills a picture or the pictures of a folder."""
    if args.check is not None:
        return _check(args, context)
    words = {"IMAGE": args.image, "MASK": args.mask, "-o OUT": args.output}
    missing = [name for name, value in words.items() if not value]
    if missing:
        fill = command_line("inpaint", "IMAGE", "MASK", "-o", "OUT")
        raise UserError(f"{' and '.join(missing)} is missing; name what to fill, where, and the result: {fill}")
    filled = fill_files(
        args.image,
        args.mask,
        args.output,
        args.model,
        raw=args.raw,
        black_is_hole=args.black_is_hole,
        resize_mask=args.resize_mask,
        refine=args.refine,
        grow=args.grow,
        feather=args.feather,
        parallel=args.parallel,
        context=context,
    )
    failed = [f"left out {entry['image']}: {entry['reason']}" for entry in filled.failed]
    if filled.manifest is None:
        lines = [*map(_line, filled.done), *failed]
    else:
        pictures = quantity(len(filled.done), "picture")
        lines = [*failed, f"{pictures} filled by {filled.model}; {args.output}/{filled.manifest} names them"]
    # A name may hold line ends and bytes of another encoding.
    emit(args, filled.to_json(), "\n".join(display_name(line) for line in lines))
    return 1 if filled.failed else 0


def _check(args: argparse.Namespace, context: Context) -> int:
    """Reads a file's content credentials; 1 if broken."""
    from jobs.inference.signing import identity_of

    if args.image is not None or args.output is not None:
        again = command_line("inpaint", "--check", args.check)
        raise UserError(f"--check reads one file and fills nothing; leave the rest out: {again}")
    path = Path(args.check).expanduser()
    identity = identity_of(context, signs=False)
    credentials = read_credentials(read_bytes(path), path.suffix, anchors=b"" if identity is None else identity.chain)
    payload = {"file": args.check, **asdict(credentials), "sentences": credentials.sentences()}
    emit(args, payload, "\n".join(display_name(f"{args.check}: {line}") for line in credentials.sentences()))
    return 1 if credentials.state == "changed" else 0


def _line(entry: dict[str, Any]) -> str:
    notes = f" ({'; '.join(entry['notes'])})" if entry["notes"] else ""
    return f"{entry['output']}: {100 * entry['hole_ratio']:.1f} % filled{notes}"
