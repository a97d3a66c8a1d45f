"""Fills all pictures below a prefix, resumably.

    isnet inpaint s3://bucket/in s3://bucket/masks -o s3://bucket/out --model models:/isnet@production

The job is divided into parts of a few pictures. A worker stores the results of a part, then creates the part's record;
only one process can create it. A killed job is run again and does the parts without a record. `OUT/manifest.json`
lists every picture with its digest and is written when all parts are done. The alias of a model is resolved when the
job starts, and every later run of the job uses that version; so are the certificates that sign.

Not covered: a picture that is replaced under the same name and size while the job is stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import PurePosixPath
from typing import Any

from isnet.errors import InputError
from isnet.images.files import MAX_FILE_BYTES
from isnet.images.provenance import Origin
from isnet.images.save import encode_photo
from isnet.inference.predictor import checked_refine
from isnet.inpaint import MaskRules
from isnet.inpaint import inpaint as fill
from jobs.cli.progress import bar
from jobs.cluster.worker_pool import portable_context, run_shares
from jobs.evaluation.models import Model, open_model, worker_model
from jobs.inference.planning import InpaintItem, InpaintJob, Options
from jobs.inference.signing import Signing, identity_of, origin_of, signer_of
from trainplane.cluster.context import Context
from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.storage import NotFound, Store, open_store

MANIFEST = "manifest.json"
# Prefix below OUT for the state of an unfinished job.
STATE_PREFIX = ".inpaint"
# Fields of a filled picture's row beside its names.
_RESULT = {"bytes", "sha256", "hole_ratio", "notes"}


def run(job: InpaintJob, context: Context, *, tasks: int) -> dict[str, Any]:
    """Does the remaining parts; writes and returns the manifest.

    Args:
        job: as planned.
        context: opens the model.
        tasks: number of Ray tasks at once; 0 for this process.

    Raises:
        UserError: `job.output` belongs to another job.
    """
    # A finished job only needs its manifest.
    store = open_store(job.output)
    finished = _read_manifest(store)
    if finished is not None and not finished["pictures"]:
        # That job filled nothing, perhaps because its masks had another size: nothing to protect from this one.
        store.delete(MANIFEST)
    elif finished is not None:
        _refuse_other_job(finished, job)
        _delete_state(store)
        return finished
    # Only one job at a time may write to OUT.
    pinned = _register(store, job, context)
    # Do the parts that have no valid record.
    records = _valid_records(store, job)
    parts = [(number, part) for number, part in enumerate(job.parts()) if number not in records]
    origin = origin_of(context, pinned) if context.provenance is not None else None
    for number, record in _run_parts(job, pinned, parts, context, origin, tasks=tasks):
        records[number] = record
    # The manifest is the last object written: it stands for a complete job.
    rows = [row for number in sorted(records) for row in records[number]["pictures"]]
    if len(rows) != len(job.items):
        raise RunFailed(f"only {len(rows)} of {len(job.items)} pictures have a record; run the same command again")
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
    if not store.create(MANIFEST, canonical_json(manifest)) and (stored := _read_manifest(store)) is not None:
        # Nothing is written over what another process finished in the meantime.
        _refuse_other_job(stored, job)
        manifest = stored
    _delete_state(store)
    return manifest


def _refuse_other_job(manifest: Mapping[str, Any], job: InpaintJob) -> None:
    if manifest["identity"] != job.identity:
        raise UserError(
            f"{job.output} holds the results of another job (model {manifest.get('requested')}, or other options "
            f"or inputs); give another OUT, or remove it{_hint(job, manifest['identity'])}"
        )


def _hint(job: InpaintJob, identity: str) -> str:
    """Names --refine off if nothing else differs."""
    unrefined = replace(job, options=replace(job.options, refine="off"))
    return "; it fills at one scale: go on with --refine off" if unrefined.identity == identity else ""


def _register(store: Store, job: InpaintJob, context: Context) -> str:
    """Registers the job in OUT and returns its pinned model."""
    key = f"{STATE_PREFIX}/job.json"
    # Certificates that cannot be read stop the job here.
    signer = signer_of(context)
    ours = {"identity": job.identity, "requested": job.model, "model": open_model(job.model, context).pinned}
    if store.create(key, canonical_json({**ours, "signer": signer})):
        return str(ours["model"])
    # The key exists: this job, run before, or another one.
    registered = _json_object(store.read(key))
    if not all(isinstance(registered.get(name), str) for name in ours):
        raise UserError(
            f"{job.output}/{key} is damaged, so that the job there is unknown; remove {job.output}/{STATE_PREFIX} and "
            "run the same command again: it begins anew"
        )
    if registered["identity"] != job.identity:
        raise UserError(
            f"{job.output} belongs to another job that is not finished (model {registered['requested']}, or other "
            f"options or inputs); give another OUT, or remove {job.output}/{STATE_PREFIX} to abandon that job"
            f"{_hint(job, registered['identity'])}"
        )
    # Half of the pictures signed, or by another, would be no job that anybody asked for.
    if (before := registered.get("signer", "")) != signer:
        first = "signs with certificates" if before else "signs nothing"
        now = "others" if before and signer else "some" if signer else "none"
        raise UserError(
            f"the unfinished job in {job.output} {first}, and `provenance` of context {context.name!r} names {now}; go "
            f"on with what it named then, or remove {job.output}/{STATE_PREFIX} to begin anew"
        )
    # A resumed job keeps the version of its first run.
    return str(registered["model"])


def _valid_records(store: Store, job: InpaintJob) -> dict[int, dict[str, Any]]:
    """Records of finished parts by number."""
    # One listing instead of a request for each result.
    sizes = {entry.key: entry.size for entry in store.list()}
    records = {}
    for number, part in enumerate(job.parts()):
        key = _record_key(number)
        if key not in sizes:
            continue
        record = _json_object(store.read(key))
        if is_record_of(record, part, sizes):
            records[number] = record
        else:
            # The record is damaged, or a result is missing or has another size: the part is done again.
            store.delete(key)
    return records


def is_record_of(record: dict[str, Any], part: Sequence[InpaintItem], sizes: Mapping[str, int]) -> bool:
    """Tells if a record fits a part and its results."""
    rows = record.get("pictures")
    if not isinstance(rows, list) or len(rows) != len(part):
        return False
    for row, item in zip(rows, part, strict=True):
        if not isinstance(row, dict) or (row.get("image"), row.get("mask")) != (item.image, item.mask):
            return False
        if isinstance(row.get("reason"), str):
            continue
        if row.get("output") != item.output or row.get("bytes") != sizes.get(item.output) or _RESULT - row.keys():
            return False
    return True


def _run_parts(
    job: InpaintJob,
    pinned: str,
    parts: Sequence[tuple[int, tuple[InpaintItem, ...]]],
    context: Context,
    origin: Origin | None,
    *,
    tasks: int,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields number and record of each part when done."""
    total = len(parts)
    if tasks and parts:
        shared = (job, pinned, portable_context(context), origin)
        yield from bar(run_shares(_run_part_on_ray, shared, parts, tasks=tasks), "inpaint", total=total)
        return
    # Without Ray the model is opened once, and not at all where nothing remains.
    model = open_model(pinned, context) if parts else None
    for number, part in bar(parts, "inpaint", total=total):
        assert model is not None
        yield number, _run_part(job, number, part, model, _signing(context, origin))


def _signing(context: Context, origin: Origin | None) -> Signing | None:
    """Certificates of this host, with the model that fills."""
    # The key is read where it is used: it never travels with the work.
    identity = identity_of(context) if origin is not None else None
    return None if identity is None or origin is None else Signing(identity, origin)


def _run_part_on_ray(
    shared: tuple[InpaintJob, str, Any, Origin | None], share: tuple[int, tuple[InpaintItem, ...]]
) -> tuple[int, dict[str, Any]]:
    job, pinned, context, origin = shared
    number, part = share
    with worker_model(pinned, context) as model:
        return number, _run_part(job, number, part, model, _signing(context[0], origin))


def _run_part(
    job: InpaintJob, number: int, part: Sequence[InpaintItem], model: Model, signing: Signing | None
) -> dict[str, Any]:
    """Fills the pictures of a part and creates its record."""
    images, masks, out = open_store(job.images), open_store(job.masks), open_store(job.output)
    record = {"pictures": [fill_item(item, images, masks, out, model, job.options, signing) for item in part]}
    # `create` fails where the key exists, so one process alone records the part.
    if not out.create(_record_key(number), canonical_json(record)):
        stored = _json_object(out.read(_record_key(number)))
        sizes = {row["output"]: row["bytes"] for row in record["pictures"] if "reason" not in row}
        return stored if is_record_of(stored, part, sizes) else record
    return record


def fill_item(
    item: InpaintItem,
    images: Store,
    masks: Store,
    out: Store,
    model: Model,
    options: Options,
    signing: Signing | None = None,
) -> dict[str, Any]:
    """Fills one picture; returns its row for the record."""
    try:
        if max(item.bytes, item.mask_bytes) > MAX_FILE_BYTES:
            raise InputError(f"too large: more than {MAX_FILE_BYTES} bytes")
        original = images.read(item.image)
        result = fill(
            original,
            masks.read(item.mask),
            model=model.filler,
            composite=not options.raw,
            rules=MaskRules(hole="black") if options.black_is_hole else None,
            resize_mask=options.resize_mask,
            refine=checked_refine(options.refine),
            grow=options.grow,
            feather=options.feather,
        )
        suffix = PurePosixPath(item.output).suffix
        data, notes = encode_photo(result.photo, suffix)
        if signing is not None:
            data = signing(data, suffix, original=original, original_format=result.photo.format, hole=result.hole)
    except (InputError, NotFound) as error:
        return {"image": item.image, "mask": item.mask, "reason": str(error)}
    # A part that is run twice writes the same bytes twice; signed ones are written once.
    if signing is not None:
        data = signing.store(out, item.output, data, original=original)
    else:
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


def _read_manifest(store: Store) -> dict[str, Any] | None:
    """Reads the manifest of an earlier job.

    Raises:
        UserError: The file there is none of a job: OUT is a dataset, for example.
    """
    try:
        manifest = _json_object(store.read(MANIFEST))
    except NotFound:
        return None
    is_ours = all(isinstance(manifest.get(name), str) for name in ("identity", "model", "images", "masks"))
    if not is_ours or not isinstance(manifest.get("pictures"), list) or not isinstance(manifest.get("failed"), list):
        raise UserError(
            f"{store.address} has a {MANIFEST} that no batch has written (a dataset's or a checkpoint's, or a damaged "
            "one), and results would lie among other files; give another OUT"
        )
    return manifest


def _json_object(data: bytes) -> dict[str, Any]:
    """Decodes a JSON object; empty where it is none."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _delete_state(store: Store) -> None:
    for entry in list(store.list(f"{STATE_PREFIX}/")):
        store.delete(entry.key)


def _record_key(number: int) -> str:
    return f"{STATE_PREFIX}/part-{number:06d}.json"
