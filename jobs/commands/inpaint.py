"""`isnet inpaint IMAGE MASK -o OUT`: fill the hole of a picture, or of every picture of a folder.

In a folder each picture needs a mask of the same name (any suffix) in the mask folder, or one mask file serves all.
What cannot be filled is named with its reason; the others are filled, and the exit status is 1. Prefixes of an object
store are a batch job (inpaint_batch.py).
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isnet.errors import InputError
from isnet.images.folders import find_pictures
from isnet.images.save import check_suffix, is_written
from isnet.inpaint import MaskRules
from isnet.inpaint import inpaint as fill
from jobs.cli.main import emit
from jobs.cli.progress import bar
from jobs.cluster.worker_pool import tasks_wanted
from jobs.evaluation.models import Model, open_model
from jobs.inference import batch
from trainplane.cluster.context import resolve
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import UserError


@dataclass(frozen=True)
class Task:
    """One picture to fill."""

    image: Path
    mask: Path
    output: Path


def inpaint(args: argparse.Namespace) -> int:
    """The command."""
    if _is_batch(args):
        return _batch(args)
    tasks, failed = plan(Path(args.image), Path(args.mask), Path(args.output))
    context = resolve(args.context)
    context.activate()
    model = open_model(args.model, context)
    done = []
    for task in bar(tasks, "inpaint", total=len(tasks)):
        try:
            done.append(_fill(task, model, args))
        except InputError as error:
            failed.append({"image": str(task.image), "mask": str(task.mask), "reason": str(error)})
    if not done and not Path(args.image).is_dir():
        raise InputError(f"{failed[-1]['image']} with mask {failed[-1]['mask']}: {failed[-1]['reason']}")
    lines = [_line(entry) for entry in done] + [f"left out {entry['image']}: {entry['reason']}" for entry in failed]
    emit(args, {"model": args.model, "done": done, "failed": failed}, "\n".join(lines))
    return 1 if failed else 0


def _is_batch(args: argparse.Namespace) -> bool:
    """Prefixes of a store always; folders where tasks are asked for, or a cluster runs this as its job."""
    if args.parallel is not None or any("://" in word for word in (args.image, args.mask, args.output)):
        return True
    return in_ray_job() and Path(args.image).is_dir() and Path(args.mask).is_dir()


def _batch(args: argparse.Namespace) -> int:
    """Prefixes of an object store, or folders with `--parallel`: see inpaint_batch.py."""
    context = resolve(args.context)
    context.activate()
    options = batch.Options(args.raw, args.black_is_hole, args.resize_mask)
    job = batch.plan(args.image, args.mask, args.output, model=args.model, options=options)
    manifest = batch.run(job, context, tasks=tasks_wanted(args.parallel))
    done, failed = manifest["pictures"], manifest["failed"]
    lines = [f"left out {entry['image']}: {entry['reason']}" for entry in failed]
    lines.append(f"{len(done)} pictures filled by {manifest['model']}; {args.output}/{batch.MANIFEST} names them")
    payload = {"model": manifest["model"], "done": done, "failed": failed, "manifest": batch.MANIFEST}
    emit(args, payload, "\n".join(lines))
    return 1 if failed else 0


def plan(image: Path, mask: Path, output: Path) -> tuple[list[Task], list[dict[str, str]]]:
    """Which picture goes with which mask and where to; what has no mask is in the second list."""
    if not image.is_dir():
        target = output / _written_name(image) if output.is_dir() else output
        check_suffix(target.suffix)
        if _real(target) in (_real(image), _real(mask)):
            raise UserError(f"{target} is an input; write the result elsewhere")
        if not target.parent.is_dir():
            raise UserError(f"{target.parent}: there is no such folder to write to; make it")
        return [Task(image, mask, target)], []
    if output.exists() and (not output.is_dir() or _real(output) in (_real(image), _real(mask))):
        raise UserError(f"{output} is {'an input folder' if output.is_dir() else 'a file'}; give another folder")
    paths, skipped = find_pictures(image)
    failed = [{"image": str(image / entry.path), "reason": entry.reason} for entry in skipped]
    if not paths:
        raise UserError(f"{image}: no pictures in this folder; need JPEG, PNG or WebP files")
    masks = _masks(mask)
    tasks: list[Task] = []
    targets: set[Path] = set()
    for path in paths:
        relative = path.relative_to(image)
        found = mask if masks is None else masks.get(relative.with_suffix(""))
        if found is None:
            failed.append({"image": str(path), "reason": f"no mask called {relative.with_suffix('')}.* in {mask}"})
            continue
        kept = relative.suffix.lower() in batch.KEPT_SUFFIXES
        target = output / (relative if kept else relative.with_suffix(".png"))
        if target in targets or (not kept and (image / relative.with_suffix(".png")).exists()):
            # b.gif beside b.png: neither result may overwrite the other.
            target = output / relative.with_name(f"{relative.name}.png")
        targets.add(target)
        tasks.append(Task(path, found, target))
    if not tasks:
        raise UserError(f"{mask}: no mask fits any of {len(paths)} pictures by name; name them alike")
    return tasks, failed


def _written_name(image: Path) -> str:
    """A picture's own name where its format is written, else that of a PNG, beside another picture's if need be."""
    if is_written(image.suffix):
        return image.name
    plain = image.with_suffix(".png")
    return f"{image.name}.png" if plain.exists() else plain.name


def _real(path: Path) -> str:
    """Where a path leads; unlike `Path.resolve`, a link to itself is no error yet: whoever opens it says so."""
    return os.path.realpath(path)


def _masks(mask: Path) -> dict[Path, Path] | None:
    """Masks by the name they serve; None where one file serves all."""
    if not mask.is_dir():
        return None
    return {path.relative_to(mask).with_suffix(""): path for path in find_pictures(mask)[0]}


def _fill(task: Task, model: Model, args: argparse.Namespace) -> dict[str, Any]:
    result = fill(
        task.image,
        task.mask,
        model=model.filler,
        composite=not args.raw,
        rules=MaskRules(hole="black") if args.black_is_hole else None,
        resize_mask=args.resize_mask,
    )
    task.output.parent.mkdir(parents=True, exist_ok=True)
    written = result.save(task.output)
    notes = [*result.notes, *written]
    return {"image": str(task.image), "output": str(task.output), "hole_ratio": result.ratio, "notes": notes}


def _line(entry: dict[str, Any]) -> str:
    notes = f" ({'; '.join(entry['notes'])})" if entry["notes"] else ""
    return f"{entry['output']}: {100 * entry['hole_ratio']:.1f} % filled{notes}"
