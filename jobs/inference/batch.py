"""Filling a whole prefix of pictures, here or as Ray tasks: resumable, every picture once, the manifest last.

    isnet inpaint s3://bucket/in s3://bucket/masks -o s3://bucket/out --model models:/isnet@production

The job is cut into parts of a few pictures. A part is stored picture by picture, then its record is created (once,
whoever else is at it); a killed job is run again and goes on with the parts that have no record. `OUT/manifest.json`
names every picture with its digest and stands when all is done. An alias is replaced by the version it points at when
the job begins, and stays that version however often it is resumed.
Not covered: pictures replaced under the same name and size while the job is stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from isnet.errors import InputError
from isnet.images.files import MAX_FILE_BYTES
from isnet.images.folders import SUFFIXES
from isnet.images.save import encode_photo
from isnet.inpaint import MaskRules
from isnet.inpaint import inpaint as fill
from jobs.cli.progress import bar
from jobs.cluster.worker_pool import portable, shares_done
from jobs.evaluation.models import Model, open_model, worker_model
from trainplane.cluster.context import Context
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, Store, open_store
from trainplane.storage.store import checked_key

MANIFEST = "manifest.json"
NOTES = ".inpaint"
PICTURES_PER_PART = 16
# A picture of another format is written losslessly, as PNG.
KEPT_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Item:
    """One picture: keys in the three stores, and the size of what is read, bytes."""

    image: str
    mask: str
    output: str
    bytes: int
    mask_bytes: int


@dataclass(frozen=True)
class Options:
    """How pictures are filled, as typed."""

    raw: bool = False
    black_is_hole: bool = False
    resize_mask: bool = False


@dataclass(frozen=True)
class Job:
    """Everything that decides what comes out. `model`: as typed; `left_out`: pictures that cannot be begun, and why."""

    images: str
    masks: str
    output: str
    model: str
    options: Options
    items: tuple[Item, ...]
    left_out: tuple[dict[str, str], ...] = field(default=())

    @property
    def identity(self) -> str:
        """sha256 that the same command over the same listing has again."""
        return hashlib.sha256(canonical_json(asdict(self))).hexdigest()

    def parts(self) -> list[tuple[Item, ...]]:
        return [self.items[at : at + PICTURES_PER_PART] for at in range(0, len(self.items), PICTURES_PER_PART)]


def plan(images: str, masks: str, output: str, *, model: str, options: Options) -> Job:
    """The job over what the stores list now; a `UserError` where there is nothing to do, or OUT is an input."""
    stores = {"IMAGE": open_store(images), "MASK": open_store(masks), "OUT": open_store(output)}
    addresses = {name: store.address for name, store in stores.items()}
    for name in ("IMAGE", "MASK"):
        if addresses["OUT"] == addresses[name] or addresses["OUT"].startswith(f"{addresses[name]}/"):
            raise UserError(f"{output} is {name} or lies in it, and results would become inputs; give another")
    pictures = {e.key: e.size for e in stores["IMAGE"].list() if PurePosixPath(e.key).suffix.lower() in SUFFIXES}
    if not pictures:
        raise UserError(f"{images}: no pictures there; need a prefix or folder with JPEG, PNG or WebP files below it")
    mask_sizes = {e.key: e.size for e in stores["MASK"].list() if PurePosixPath(e.key).suffix.lower() in SUFFIXES}
    by_name = {str(PurePosixPath(key).with_suffix("")): key for key in mask_sizes}
    items, left_out = [], []
    taken: set[str] = set()
    for key, size in pictures.items():
        mask = by_name.get(str(PurePosixPath(key).with_suffix("")))
        reason = _unusable(key) or (
            mask is None and f"no mask called {PurePosixPath(key).with_suffix('')}.* in {masks}"
        )
        if mask is None or reason:
            left_out.append({"image": key, "reason": str(reason)})
            continue
        target = _target(key, pictures, taken)
        taken.add(target)
        items.append(Item(key, mask, target, size, mask_sizes[mask]))
    if not items:
        raise UserError(f"{masks}: no mask fits any of {len(pictures)} pictures by name; name them alike")
    places = (addresses["IMAGE"], addresses["MASK"], addresses["OUT"])
    return Job(*places, model, options, tuple(items), tuple(left_out))


def _unusable(key: str) -> str | None:
    """Why an object of this name cannot be read and written; None where it can."""
    try:
        checked_key(key)
    except UserError as error:
        return str(error)
    return None


def _target(key: str, pictures: dict[str, int], taken: set[str]) -> str:
    """Where the result goes: under the picture's own name, as PNG where its format is not written or not exact."""
    path = PurePosixPath(key)
    if path.suffix.lower() in KEPT_SUFFIXES:
        return key
    # b.gif beside b.png, and b.gif.png: no result may overwrite another.
    target = str(path.with_suffix(".png"))
    if target in pictures or target in taken:
        target = f"{key}.png"
    while target in pictures or target in taken:
        target += ".png"
    return target


def run(job: Job, context: Context, *, tasks: int) -> dict[str, Any]:
    """Do what is left of the job and write its manifest, which is returned."""
    store = open_store(job.output)
    known = _manifest(store)
    if known is not None and not known.get("pictures"):
        # It filled nothing, masks of another size perhaps: another try has nothing to be kept apart from.
        store.delete(MANIFEST)
    elif known is not None:
        if known.get("identity") != job.identity:
            raise UserError(
                f"{job.output} holds the results of another job (model {known.get('requested')}, or other options or "
                "inputs); give another OUT, or remove it"
            )
        _clear(store)
        return known
    pinned = _claim(store, job, context)
    records = _records(store, job)
    parts = [(number, part) for number, part in enumerate(job.parts()) if number not in records]
    for number, record in _done(job, pinned, parts, context, tasks=tasks):
        records[number] = record
    rows = [row for number in sorted(records) for row in records[number]["pictures"]]
    failed = [row for row in rows if "reason" in row]
    manifest = {
        "format": 1,
        "identity": job.identity,
        "model": pinned,
        "requested": job.model,
        "images": job.images,
        "masks": job.masks,
        "options": asdict(job.options),
        "pictures": [row for row in rows if "reason" not in row],
        "failed": [*failed, *job.left_out],
    }
    if len(rows) != len(job.items):
        raise RunFailed(f"{len(rows)} of {len(job.items)} pictures are accounted for; run the same command again")
    store.write(MANIFEST, canonical_json(manifest))
    _clear(store)
    return manifest


def _claim(store: Store, job: Job, context: Context) -> str:
    """The model as pinned when this job began first; a `UserError` where another job is at work in OUT."""
    key = f"{NOTES}/job.json"
    mine = {"identity": job.identity, "requested": job.model, "model": open_model(job.model, context).pinned}
    if store.create(key, canonical_json(mine)):
        return str(mine["model"])
    found = json.loads(store.read(key))
    if found["identity"] != job.identity:
        raise UserError(
            f"{job.output} belongs to another job that is not finished (model {found['requested']}, or other options "
            f"or inputs); give another OUT, or remove {job.output}/{NOTES} to give that one up"
        )
    return str(found["model"])


def _records(store: Store, job: Job) -> dict[int, dict[str, Any]]:
    """Parts that are done, and whose results are there as they were recorded."""
    sizes = {entry.key: entry.size for entry in store.list()}
    found = {}
    for number in range(len(job.parts())):
        key = _key(number)
        if key not in sizes:
            continue
        record = json.loads(store.read(key))
        if all(sizes.get(row["output"]) == row["bytes"] for row in record["pictures"] if "reason" not in row):
            found[number] = record
        else:
            store.delete(key)
    return found


def _done(
    job: Job, pinned: str, parts: Sequence[tuple[int, tuple[Item, ...]]], context: Context, *, tasks: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    total = len(parts)
    if tasks and parts:
        held = (job, pinned, portable(context))
        yield from bar(shares_done(_part_on_ray, held, parts, tasks=tasks), "inpaint", total=total)
        return
    model = open_model(pinned, context) if parts else None
    for number, part in bar(parts, "inpaint", total=total):
        assert model is not None
        yield number, _part(job, number, part, model)


def _part_on_ray(held: tuple[Job, str, Any], share: tuple[int, tuple[Item, ...]]) -> tuple[int, dict[str, Any]]:
    job, pinned, place = held
    number, part = share
    with worker_model(pinned, place) as model:
        return number, _part(job, number, part, model)


def _part(job: Job, number: int, part: Sequence[Item], model: Model) -> dict[str, Any]:
    """Fill a part's pictures and record it; where another process recorded it first, that record stands."""
    images, masks, out = open_store(job.images), open_store(job.masks), open_store(job.output)
    record = {"pictures": [_fill(item, images, masks, out, model, job.options) for item in part]}
    if not out.create(_key(number), canonical_json(record)):
        stored: dict[str, Any] = json.loads(out.read(_key(number)))
        return stored
    return record


def _fill(item: Item, images: Store, masks: Store, out: Store, model: Model, options: Options) -> dict[str, Any]:
    try:
        if max(item.bytes, item.mask_bytes) > MAX_FILE_BYTES:
            raise InputError(f"too large: more than {MAX_FILE_BYTES} bytes")
        result = fill(
            images.read(item.image),
            masks.read(item.mask),
            model=model.filler,
            composite=not options.raw,
            rules=MaskRules(hole="black") if options.black_is_hole else None,
            resize_mask=options.resize_mask,
        )
        data, notes = encode_photo(result.photo, PurePosixPath(item.output).suffix)
    except (InputError, NotFound) as error:
        return {"image": item.image, "mask": item.mask, "reason": str(error)}
    out.write(item.output, data)
    return {
        "image": item.image,
        "mask": item.mask,
        "output": item.output,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "hole_ratio": result.ratio,
        "notes": [*result.notes, *notes],
    }


def _manifest(store: Store) -> dict[str, Any] | None:
    try:
        found = json.loads(store.read(MANIFEST))
    except NotFound:
        return None
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _clear(store: Store) -> None:
    for entry in list(store.list(f"{NOTES}/")):
        store.delete(entry.key)


def _key(number: int) -> str:
    return f"{NOTES}/part-{number:06d}.json"
