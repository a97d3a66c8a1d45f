"""Photos of `isnet demo`, split into training and held-out.

They come from installed packages, or from the user's folder. The sha256 of a photo's bytes decides its side, so it
never changes sides. For photos of packages a list of names does, so that the held-out photos have other subjects.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isnet.errors import InputError
from isnet.images.decode import decode_rgb
from jobs.cli.format import quantity
from jobs.data.packing import pack_pictures
from jobs.data.sources import PictureSource, Skip, file_source, open_pictures
from trainplane.cluster.context import Context
from trainplane.data.index import INDEX_NAME
from trainplane.data.manifest import MANIFEST_NAME, Dataset
from trainplane.errors import UserError
from trainplane.storage import open_store

TRAIN, VAL = "demo-train", "demo-val"
MINIMUM = 4

# (package, folder inside it) -> photographs; test patterns and scans are left out.
_TRAINING = {
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
    # Without motorcycle_right, the other half of a stereo pair with motorcycle_left: nearly a training picture.
    ("skimage", "data"): ("astronaut.png", "chelsea.png", "coffee.png"),
    ("sklearn", "datasets/images"): ("china.jpg",),
}


@dataclass(frozen=True)
class PhotoSides:
    """Photos by side, and files that cannot be used."""

    train: list[PictureSource]
    val: list[PictureSource]
    skipped: list[Skip]


def packaged_photos() -> PhotoSides:
    """Finds the photos of installed packages."""
    train, val = list(_installed(_TRAINING)), list(_installed(_HELD_OUT))
    if len(train) < MINIMUM or not val:
        raise UserError(
            f"installed packages have {len(train) + len(val)} of the demo's photos, need at least {MINIMUM + 1}; "
            "install the demo's packages (pip install 'isnet-platform[demo]') or give a folder: --photos DIR"
        )
    return PhotoSides(train, val, [])


def _installed(photos: dict[tuple[str, str], tuple[str, ...]]) -> Iterator[PictureSource]:
    for (package, folder), names in photos.items():
        # Located without importing the package, because only its files are needed.
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            continue
        for name in names:
            path = Path(spec.origin).parent / folder / name
            if path.is_file():
                yield file_source(name, path)


def folder_photos(folder: Path) -> PhotoSides:
    """Splits photos by digest; holds out a fifth of them."""
    usable: list[tuple[bytes, PictureSource]] = []
    skipped: list[Skip] = []
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give a folder of JPEG, PNG or WebP photos")
    # Undecodable photos are left out here, so that both sides have some.
    # Decode every photo and note its digest.
    with open_pictures(folder) as entries:
        for entry in entries:
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
    # Photos with equal bytes stay on one side, so only different photos count.
    different = sorted({digest for digest, _ in usable})
    if len(different) < MINIMUM:
        alike = f", {len(different)} of them different" if len(different) < len(usable) else ""
        first = [f" ({quantity(len(skipped), 'file')} of no use, the first: {s.file}: {s.reason})" for s in skipped[:1]]
        raise UserError(
            f"{folder}: {quantity(len(usable), 'usable photo')} found{alike}{''.join(first)}, need at least {MINIMUM}; "
            "give a folder of JPEG, PNG or WebP photos"
        )
    # The smallest digests are held out, at least one.
    limit = different[max(1, len(different) // 5) - 1]
    train = [source for digest, source in usable if digest > limit]
    return PhotoSides(train, [source for digest, source in usable if digest <= limit], skipped)


def pack_sides(sides: PhotoSides, context: Context, *, replace: bool = False) -> tuple[Dataset, Dataset]:
    """Packs both sides into the context's dataset store."""
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


def keep_dataset(dataset: Dataset, context: Context) -> str:
    """Copies a dataset into a local store, under its name.

    Another dataset of that name is renamed after its digest, never overwritten, so that runs of it can still be
    reproduced. Returns a message.
    """
    target = Path(context.dataset(dataset.name))
    message = f"kept as {dataset.name!r} in {target.parent}"
    if target.exists():
        digest = _digest_of(target)
        if digest == dataset.digest:
            return message
        aside = _free_name(target, digest)
        target.rename(aside)
        message += f"; another dataset of that name is called {aside.name!r} now"
    # Complete before it gets its name: a killed demo leaves no half dataset.
    unfinished = target.with_name(f".{target.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    store = open_store(str(unfinished))
    for name in (*(shard.name for shard in dataset.shards), INDEX_NAME, MANIFEST_NAME):
        store.write(name, dataset.store.read(name))
    unfinished.rename(target)
    return message


def _digest_of(folder: Path) -> str | None:
    try:
        return Dataset.open(str(folder)).digest
    except UserError:
        return None


def _free_name(folder: Path, digest: str | None) -> Path:
    """Name beside `folder` that nothing has yet."""
    base = f"{folder.name}-{digest[:12] if digest else 'unfinished'}"
    names = (f"{base}{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
    return next(path for path in map(folder.with_name, names) if not path.exists())


def ensure_demo_datasets(names: Iterable[str | None], context: Context) -> None:
    """Packs the demo's datasets if `names` contains a missing one."""
    for name in {TRAIN, VAL}.intersection(names):
        try:
            Dataset.open(context.dataset(name))
        except UserError:
            pack_sides(packaged_photos(), context)
