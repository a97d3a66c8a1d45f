"""The photos of `isnet demo`: those that installed packages carry, or a folder of the user's, in two sides.

A photo is trained on or held out, never both, and never changes side: which one is decided by the sha256 of its bytes
(the packages' photos by name, so that the held-out ones show different things).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isnet.errors import InputError
from isnet.images.decode import decode_rgb
from jobs.data.packing import pack_pictures
from jobs.data.sources import Skip, Source, file_source, pictures_of
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError

TRAIN, VAL = "demo-train", "demo-val"
MINIMUM = 4

# Package -> folder inside it -> photographs of the visible world; test patterns and scans are left out.
_TRAINED = {
    ("skimage", "data"): (
        "brick.png",
        "camera.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "moon.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
    ("sklearn", "datasets/images"): ("flower.jpg",),
    ("matplotlib", "mpl-data/sample_data"): ("grace_hopper.jpg",),
}
_HELD_OUT = {
    # Not motorcycle_right, the other eye of motorcycle_left: nearly the same picture may not be held out.
    ("skimage", "data"): ("astronaut.png", "chelsea.png", "coffee.png"),
    ("sklearn", "datasets/images"): ("china.jpg",),
}


@dataclass(frozen=True)
class Sides:
    """Photos by side, and what could not be used with the reason."""

    train: list[Source]
    val: list[Source]
    skipped: list[Skip]


def packaged_photos() -> Sides:
    """The photos of installed packages."""
    train, val = list(_present(_TRAINED)), list(_present(_HELD_OUT))
    if len(train) < MINIMUM or not val:
        raise UserError(
            f"installed packages carry {len(train) + len(val)} of the demo's photos, need at least {MINIMUM + 1}; "
            "install the demo's packages (pip install 'isnet-platform[demo]') or give a folder: --photos DIR"
        )
    return Sides(train, val, [])


def _present(wanted: dict[tuple[str, str], tuple[str, ...]]) -> Iterator[Source]:
    for (package, folder), names in wanted.items():
        # Found without being imported: only its files are wanted.
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name in names:
            path = Path(spec.origin).parent / folder / name
            if path.is_file():
                yield file_source(name, path)


def folder_photos(folder: Path) -> Sides:
    """The photos of a folder; every fifth by digest is held out, and at least one on each side.

    Photos that cannot be decoded are left out here, so that both sides are sure to have some.
    """
    usable: list[tuple[bytes, Source]] = []
    skipped: list[Skip] = []
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give a folder of JPEG, PNG or WebP photos")
    with pictures_of(folder) as found:
        for entry in found:
            if isinstance(entry, Skip):
                skipped.append(entry)
                continue
            try:
                data = entry.read()
                decode_rgb(data)
            except InputError as error:
                skipped.append(Skip(entry.name, str(error)))
                continue
            usable.append((hashlib.sha256(data).digest(), entry))
    # Photos with equal bytes stay on one side, so only different ones make two sides.
    different = sorted({digest for digest, _ in usable})
    if len(different) < MINIMUM:
        alike = f", {len(different)} of them different" if len(different) < len(usable) else ""
        first = [f" ({len(skipped)} files cannot be used, the first: {one.file}: {one.reason})" for one in skipped[:1]]
        raise UserError(
            f"{folder}: {len(usable)} usable photos found{alike}{''.join(first)}, need at least {MINIMUM}; "
            "give a folder of JPEG, PNG or WebP photos"
        )
    limit = different[max(1, len(different) // 5) - 1]
    train = [source for digest, source in usable if digest > limit]
    return Sides(train, [source for digest, source in usable if digest <= limit], skipped)


def pack_sides(sides: Sides, context: Context, *, replace: bool = False) -> tuple[Dataset, Dataset]:
    """Pack both sides into the context's dataset store."""
    train, val = (
        pack_pictures(
            [*sides.skipped, *sources],
            context.dataset(name),
            name=name,
            split=split,
            shard_bytes=2 * 2**20,
            replace=replace,
        )
        for name, split, sources in ((TRAIN, "train", sides.train), (VAL, "val", sides.val))
    )
    return train, val


def ensure_sample_datasets(names: Iterable[str | None], context: Context) -> None:
    """Pack the packages' photos where somebody asks for one of the demo's datasets and it is not there yet."""
    for name in {TRAIN, VAL}.intersection(names):
        try:
            Dataset.open(context.dataset(name))
        except UserError:
            pack_sides(packaged_photos(), context)
