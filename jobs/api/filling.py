"""Fills holes with any model: `isnet inpaint`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from isnet.errors import InputError
from isnet.inpaint import Inpainted, MaskRules, Source, check_borders
from isnet.inpaint import inpaint as fill_with
from jobs.api.session import session
from jobs.cli.streams import notify
from jobs.cluster.worker_pool import task_count
from jobs.evaluation.model_address import STARTER, complete_address
from jobs.evaluation.models import open_model
from jobs.inference import batch
from jobs.inference.files import fill_pairs, pair_files
from jobs.inference.planning import Options, plan
from jobs.inference.signing import signing_of
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job
from trainplane.registry.find_version import only_model


@dataclass(frozen=True)
class FilledFiles:
    """Pictures that were filled, and the others.

    Attributes:
        model: Address of the model.
        done: Of each picture {image, output, hole_ratio, notes}.
        failed: Of each other one {image, mask, reason}.
        manifest: Name of the file beside the results that lists them; of a batch job only.
    """

    model: str
    done: list[dict[str, Any]]
    failed: list[dict[str, str]]
    manifest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Returns what `isnet inpaint --json` prints."""
        manifest = {} if self.manifest is None else {"manifest": self.manifest}
        return {"model": self.model, "done": self.done, "failed": self.failed, **manifest}


def fill(
    image: Source,
    mask: Source,
    model: str | None = None,
    *,
    composite: bool = True,
    rules: MaskRules | None = None,
    resize_mask: bool = False,
    refine: Literal["auto", "off"] = "auto",
    grow: int = 0,
    feather: int = 0,
    context: Context | str | None = None,
) -> Inpainted:
    """Fills the white part of `mask` in `image`.

    As `isnet.fill`, with any model that `isnet inpaint --model` takes.

    Args:
        image: File's path or bytes, array or tensor.
        mask: Likewise, of the same height and width.
        model: NAME, NAME@ALIAS or NAME/VERSION of a registered model, a run, a checkpoint, "starter", and more; by
            default the only registered one, or the starter.
        composite: False returns the prediction for the whole picture, known pixels changed.
        rules: How to read the mask; None means white is hole.
        resize_mask: True stretches a mask of another size instead of refusing it.
        refine: "auto" fills coarse to fine, "off" at one scale.
        grow: Pixels by which the hole is widened, 0 to 1024.
        feather: Pixels inside the hole over which the jump of colour at its border fades, 0 to 1024.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: There is no such model.
        InputError: The image or the mask cannot be used.
    """
    with session(context) as opened:
        filler = open_model(_address(model, opened), opened).filler
    return fill_with(
        image,
        mask,
        model=filler,
        composite=composite,
        rules=rules,
        resize_mask=resize_mask,
        refine=refine,
        grow=grow,
        feather=feather,
    )


def fill_files(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    output: str | os.PathLike[str],
    model: str | None = None,
    *,
    raw: bool = False,
    black_is_hole: bool = False,
    resize_mask: bool = False,
    refine: Literal["auto", "off"] = "auto",
    grow: int = 0,
    feather: int = 0,
    parallel: int | None = None,
    context: Context | str | None = None,
) -> FilledFiles:
    """Fills a picture, or those of a folder or prefix.

    Prefixes of an object store are a batch job: it goes on where it was interrupted.

    Args:
        images: Picture, folder or s3:// prefix.
        masks: Mask, or a folder or prefix of masks that are called as their pictures.
        output: File, or a folder or prefix for many.
        model: As in `fill`.
        raw: Write the network's whole prediction, not only inside the hole.
        black_is_hole: Black, not white, marks the hole.
        resize_mask: Stretch masks of another size over their pictures.
        refine: "auto" fills coarse to fine, "off" at one scale.
        grow: Pixels by which holes are widened, 0 to 1024.
        feather: Pixels inside the hole over which the jump of colour at its border fades, 0 to 1024.
        parallel: Processes of Ray, as a batch job; 0 is this process.
        context: Name in `isnet.toml`; None for the default.

    Raises:
        UserError: A path, the model or an option cannot be; nothing was written.
        InputError: The one picture that was named cannot be filled.
    """
    check_borders(grow, feather, composite=not raw)
    options = Options(raw, black_is_hole, resize_mask, refine, grow, feather)
    paths = os.fspath(images), os.fspath(masks), os.fspath(output)
    with session(context, is_long=True) as opened:
        if _is_batch(paths, parallel):
            job = plan(*paths, model=_address(model, opened), options=options)
            manifest = batch.run(job, opened, tasks=task_count(parallel))
            return FilledFiles(manifest["model"], manifest["pictures"], manifest["failed"], batch.MANIFEST)
        # Pair files first: nothing is loaded for a mistake in the call.
        pairs, unpaired = pair_files(*map(Path, paths))
        address = _address(model, opened)
        model_there = open_model(address, opened)
        done, failed = fill_pairs(pairs, model_there.filler, options, signing_of(opened, model_there.pinned))
    filled = FilledFiles(address, done, [*unpaired, *failed])
    # A single picture that fails is a mistake of the call.
    if not done and not Path(images).is_dir():
        fault = filled.failed[-1]
        raise InputError(f"{fault['image']} with mask {fault['mask']}: {fault['reason']}")
    return filled


def _address(model: str | None, context: Context) -> str:
    """Returns the address of the named, only or shipped model."""
    if model is not None:
        return complete_address(model, context)
    if (address := only_model(context.tracking_server)) is None:
        notify("no --model was given and none is registered; this is the starter, a small model that ships with isnet")
        return STARTER
    notify(f"no --model was given; this is {address}")
    return address


def _is_batch(paths: tuple[str, str, str], parallel: int | None) -> bool:
    """Decides whether this is a batch job."""
    # Prefixes of a store always are, and folders with `--parallel`.
    if parallel is not None or any("://" in path for path in paths):
        return True
    # In a job of a cluster, folders are, too.
    return in_ray_job() and all(Path(path).is_dir() for path in paths[:2])
