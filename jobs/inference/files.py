"""Fills pictures of files: one, or those of a folder.

In a folder each picture needs a mask of the same name (any suffix) in the mask folder, or one mask file serves all.
Prefixes of an object store are a batch job (`jobs.inference.batch`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from isnet.errors import InputError
from isnet.images.files import PictureError, read_bytes
from isnet.images.folders import find_pictures, with_advice
from isnet.images.open_image import open_picture
from isnet.images.save import can_write, check_size_for, check_suffix
from isnet.inference.filler import Filler
from isnet.inference.predictor import checked_refine
from isnet.inpaint import MaskRules, inpaint
from jobs.cli.progress import bar
from jobs.inference.planning import KEPT_SUFFIXES, Options
from jobs.inference.signing import Signing
from trainplane.errors import UserError


@dataclass(frozen=True)
class PictureFiles:
    """Files of one picture to fill."""

    image: Path
    mask: Path
    output: Path


def fill_pairs(
    pictures: Sequence[PictureFiles], filler: Filler, options: Options, signing: Signing | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Fills pictures; lists those that cannot be, with reasons."""
    done, failed = [], []
    for files in bar(pictures, "inpaint", total=len(pictures)):
        try:
            done.append(_fill(files, filler, options, signing))
        except InputError as error:
            failed.append({"image": str(files.image), "mask": str(files.mask), "reason": str(error)})
    return done, failed


def _fill(files: PictureFiles, filler: Filler, options: Options, signing: Signing | None) -> dict[str, Any]:
    result = inpaint(
        files.image,
        files.mask,
        model=filler,
        composite=not options.raw,
        rules=MaskRules(hole="black") if options.black_is_hole else None,
        resize_mask=options.resize_mask,
        refine=checked_refine(options.refine),
        grow=options.grow,
        feather=options.feather,
    )
    # Folders below the output appear with their first picture.
    files.output.parent.mkdir(parents=True, exist_ok=True)
    seal = None
    if signing is not None:
        seal = partial(signing, original=read_bytes(files.image), original_format=result.photo.format, hole=result.hole)
    notes = [*result.notes, *result.save(files.output, seal=seal)]
    return {"image": str(files.image), "output": str(files.output), "hole_ratio": result.ratio, "notes": notes}


def pair_files(image: Path, mask: Path, output: Path) -> tuple[list[PictureFiles], list[dict[str, str]]]:
    """Pairs pictures with masks and outputs; lists unusable ones."""
    # A single picture: the output is a file, or a folder that exists.
    if not image.is_dir():
        target = output / _written_name(image) if output.is_dir() else output
        check_suffix(target.suffix)
        if _real(target) in (_real(image), _real(mask)):
            raise UserError(f"{target} is an input; write the result elsewhere")
        if not target.parent.is_dir():
            raise UserError(f"{target.parent}: there is no such folder to write to; make it")
        # Before the model, which takes seconds.
        _check_there(image, "picture")
        _check_there(mask, "mask")
        _check_size(image, target.suffix)
        return [PictureFiles(image, mask, target)], []
    # A folder: the output is another folder, with the same paths below it.
    if output.exists() and (not output.is_dir() or _real(output) in (_real(image), _real(mask))):
        raise UserError(f"{output} is {'an input folder' if output.is_dir() else 'a file'}; give another folder")
    # Results of an earlier run, and masks, may lie below the pictures.
    paths, skipped = find_pictures(image, without=(output, mask))
    failed = [
        {"image": str(image / entry.path), "reason": with_advice(entry.reason)}
        for entry in skipped
        if not entry.is_harmless
    ]
    if not paths:
        raise UserError(f"{image}: no pictures in this folder; need JPEG, PNG or WebP files")
    _check_there(mask, "mask")
    masks = _masks(mask)
    pictures: list[PictureFiles] = []
    targets: set[Path] = set()
    for path in paths:
        relative = path.relative_to(image)
        mask_file = mask if masks is None else masks.get(relative.with_suffix(""))
        # A picture without a mask does not stop the others.
        if mask_file is None:
            failed.append({"image": str(path), "reason": f"no mask called {relative.with_suffix('')}.* in {mask}"})
            continue
        # Formats that cannot be written become PNG.
        keeps_suffix = relative.suffix.lower() in KEPT_SUFFIXES
        target = output / (relative if keeps_suffix else relative.with_suffix(".png"))
        if target in targets or (not keeps_suffix and (image / relative.with_suffix(".png")).exists()):
            # b.gif beside b.png: neither result may overwrite the other.
            target = output / relative.with_name(f"{relative.name}.png")
        targets.add(target)
        pictures.append(PictureFiles(path, mask_file, target))
    if not pictures:
        raise UserError(f"{mask}: no mask fits any of {len(paths)} pictures by name; name them alike")
    return pictures, failed


def _check_there(path: Path, what: str) -> None:
    # A link that leads nowhere is there; reading it tells why it cannot be read.
    if not os.path.lexists(path):
        raise UserError(f"{path}: there is no such file or folder; need a {what}")


def _check_size(image: Path, suffix: str) -> None:
    """Refuses a picture too large for the output's format."""
    # What cannot be read is reported where it is filled.
    with suppress(PictureError), open_picture(read_bytes(image)) as opened:
        check_size_for(suffix, opened.height, opened.width)


def _written_name(image: Path) -> str:
    """Returns the name of a picture's result."""
    if can_write(image.suffix):
        return image.name
    # Formats that cannot be written become PNG, under a name that no other picture has.
    png = image.with_suffix(".png")
    return f"{image.name}.png" if png.exists() else png.name


def _real(path: Path) -> str:
    """Resolves links, also one to itself, unlike `Path.resolve`."""
    return os.path.realpath(path)


def _masks(mask: Path) -> dict[Path, Path] | None:
    """Returns masks by name; None if one file serves all."""
    if not mask.is_dir():
        return None
    return {path.relative_to(mask).with_suffix(""): path for path in find_pictures(mask)[0]}
