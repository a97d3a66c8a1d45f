"""Plans a batch: pictures, their masks and their results.

Nothing is opened here but listings of stores. The plan is the identity of a job (`jobs.inference.batch` runs it).
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath

from isnet.images.files import display_name
from isnet.images.folders import SUFFIXES, hidden_part, is_apple_double
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.storage import Store, open_store
from trainplane.storage.store import checked_key

PICTURES_PER_PART = 16
# Formats that are written as they are read; a picture of another format is written losslessly, as PNG.
KEPT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


# Field names of the next three classes are part of a job's identity, which OUT keeps.
@dataclass(frozen=True)
class InpaintItem:
    """Keys of one picture's files, and their sizes."""

    image: str
    mask: str
    output: str
    bytes: int
    mask_bytes: int


@dataclass(frozen=True)
class Options:
    """Options of `isnet inpaint` that change the result."""

    raw: bool = False
    black_is_hole: bool = False
    resize_mask: bool = False
    refine: str = "auto"
    grow: int = 0
    feather: int = 0


# Options that came later, and what jobs did before. With these values they are no part of the identity.
_BEFORE: dict[str, str | int] = {"refine": "off", "grow": 0, "feather": 0}


@dataclass(frozen=True)
class InpaintJob:
    """Everything that decides the results of a job."""

    images: str
    masks: str
    output: str
    model: str  # address as typed, perhaps with an alias
    options: Options
    items: tuple[InpaintItem, ...]  # pictures to fill, sorted by key
    left_out: tuple[dict[str, str], ...] = field(default=())  # pictures that cannot be filled: {image, reason}

    @property
    def identity(self) -> str:
        """Sha256 of the command and the listing."""
        options = {name: value for name, value in asdict(self.options).items() if _BEFORE.get(name) != value}
        return hashlib.sha256(canonical_json({**asdict(self), "options": options})).hexdigest()

    def parts(self) -> list[tuple[InpaintItem, ...]]:
        """Divides the pictures into parts."""
        return [self.items[at : at + PICTURES_PER_PART] for at in range(0, len(self.items), PICTURES_PER_PART)]


def plan(images: str, masks: str, output: str, *, model: str, options: Options) -> InpaintJob:
    """Lists the stores and pairs pictures with masks by name."""
    # Results below an input would be inputs of the next run.
    stores = {"IMAGE": open_store(images), "MASK": open_store(masks), "OUT": open_store(output)}
    addresses = {name: store.address for name, store in stores.items()}
    for name, address in addresses.items():
        if not _is_utf8(address):
            raise UserError(
                f"{name} {display_name(address)}: a job is recorded under this name, which is no UTF-8; "
                "rename the folder"
            )
    for name in ("IMAGE", "MASK"):
        if addresses["OUT"] == addresses[name] or addresses["OUT"].startswith(f"{addresses[name]}/"):
            raise UserError(
                f"{output} is the same as {name} or below it, and results would become inputs; give another"
            )
    pictures = _list_pictures(stores["IMAGE"], without=addresses["MASK"])
    if not pictures:
        raise UserError(f"{images}: no pictures there; need a prefix or folder with JPEG, PNG or WebP files below it")
    mask_sizes = _list_pictures(stores["MASK"])
    mask_by_name = {str(PurePosixPath(key).with_suffix("")): key for key in mask_sizes}
    # Pair each picture with the mask of its name, and choose a free name for the result.
    items, left_out = [], []
    targets: set[str] = set()
    for key, size in pictures.items():
        name = str(PurePosixPath(key).with_suffix(""))
        mask = mask_by_name.get(name)
        # A picture without a mask does not stop the others.
        reason = _reason_to_skip(key) or (mask is None and f"no mask called {name}.* in {masks}")
        if mask is None or reason:
            # What is no UTF-8 has no place in the manifest.
            left_out.append({"image": key if _is_utf8(key) else display_name(key), "reason": str(reason)})
            continue
        target = _target(key, pictures, targets)
        targets.add(target)
        items.append(InpaintItem(key, mask, target, size, mask_sizes[mask]))
    if not items:
        raise UserError(f"{masks}: no mask fits any of {len(pictures)} pictures by name; name them alike")
    return InpaintJob(
        addresses["IMAGE"], addresses["MASK"], addresses["OUT"], model, options, tuple(items), tuple(left_out)
    )


def _list_pictures(store: Store, *, without: str = "") -> dict[str, int]:
    """Lists sizes of pictures by key.

    Not hidden ones, nor those in a folder `without` below the store.
    """
    pictures = {}
    is_inside = without.startswith(f"{store.address}/")
    for entry in store.list():
        name = PurePosixPath(entry.key)
        is_picture = name.suffix.lower() in SUFFIXES and not is_apple_double(name.name)
        is_excluded = is_inside and f"{store.address}/{entry.key}".startswith(f"{without}/")
        if is_picture and not is_excluded and not hidden_part(entry.key)[1]:
            pictures[entry.key] = entry.size
    return pictures


def _reason_to_skip(key: str) -> str | None:
    """Reason why a key cannot be read or written."""
    try:
        checked_key(key)
    except UserError as error:
        return str(error)
    return None


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _target(key: str, pictures: dict[str, int], targets: set[str]) -> str:
    """Key of a picture's result: its own, or a PNG's."""
    path = PurePosixPath(key)
    if path.suffix.lower() in KEPT_SUFFIXES:
        return key
    # With b.gif beside b.png, or b.gif.png, no result may overwrite another.
    target = str(path.with_suffix(".png"))
    if target in pictures or target in targets:
        target = f"{key}.png"
    while target in pictures or target in targets:
        target += ".png"
    return target
