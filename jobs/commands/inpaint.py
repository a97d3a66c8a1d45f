"""`isnet inpaint IMAGE MASK -o OUT`: fills holes of pictures.

Pictures that cannot be filled are reported with their reasons; the others are filled, and the exit status is 1.
"""

from __future__ import annotations

import argparse
from typing import Any

from isnet.images.files import display_name
from jobs.api.filling import fill_files
from jobs.cli.main import emit
from trainplane.cluster.context import Context


def inpaint(args: argparse.Namespace, context: Context) -> int:
    """Fills a picture or the pictures of a folder."""
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
        count = len(filled.done)
        lines = [*failed, f"{count} pictures filled by {filled.model}; {args.output}/{filled.manifest} names them"]
    # A name may hold line ends and bytes of another encoding.
    emit(args, filled.to_json(), "\n".join(display_name(line) for line in lines))
    return 1 if filled.failed else 0


def _line(entry: dict[str, Any]) -> str:
    notes = f" ({'; '.join(entry['notes'])})" if entry["notes"] else ""
    return f"{entry['output']}: {100 * entry['hole_ratio']:.1f} % filled{notes}"
