"""`isnet demo`: trains, promotes and uses a small model.

Each stage calls the functions that the commands call. Training reads from an S3 server on loopback, whose objects are
in memory. The datasets stay as `demo-train` and `demo-val` in the dataset store, beside checkpoints and MLflow's
database, so that a second demo resumes the first one and every other command goes on from it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from isnet.images.decode import decode_rgb
from isnet.inference.classical import classical
from isnet.masks import irregular
from jobs.cli.main import emit
from jobs.config import ISNetConfig, load_isnet_config
from jobs.data.demo_photos import VAL, folder_photos, keep_dataset, pack_sides, packaged_photos
from jobs.data.samples import picture_bytes
from jobs.evaluation.evaluation import Protocol, make_protocol, measure_model
from jobs.evaluation.model_address import STARTER
from jobs.evaluation.models import open_model, untrained_model
from jobs.evaluation.report import Report, terminal_text
from jobs.presets import PRESETS
from jobs.registry.evaluate_gates import audited_model, promote_version
from jobs.registry.measure import measure_version
from jobs.registry.register import register_checkpoint
from jobs.train.run import run_training
from trainplane.cluster.context import Context
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.command_line import command_line
from trainplane.config.load import build, read_yaml
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples
from trainplane.errors import RunFailed, UserError
from trainplane.registry.gates import GateVerdict, evaluate_gates
from trainplane.registry.rules import GateRules
from trainplane.registry.versions import ModelVersion
from trainplane.storage import ensure_bucket
from trainplane.tracking.images import strip
from trainplane.train.run_key import exclusive
from trainplane.train.run_page import Typed

MODEL = "isnet-demo"
BUCKET = "s3://isnet-demo"
STAGES = 7
# Measured: two Ray Train workers, a Ray head with its dashboard and the driver take 3.2 GB; checkpoints 20 MB.
NEED_MEMORY_BYTES = 4 * 2**30
NEED_DISK_BYTES = 1 * 2**30


def demo(args: argparse.Namespace, context: Context) -> int:
    """Runs all stages, from photos to a repaired picture."""
    started = time.monotonic()
    _check_local(context)
    preset = "demo" if args.from_scratch else "finetune"
    typed = Typed(preset, (f"train.steps={args.steps}",) if args.steps else (), is_shipped=True)
    config = load_isnet_config(typed.preset, typed.overrides)
    with exclusive(context.home, "demo", doing="running the demo"):
        # 1: photos, before anything is started.
        _check_resources(context.home)
        sides = folder_photos(Path(args.photos).expanduser()) if args.photos else packaged_photos()
        _stage(1, f"photos: {len(sides.train)} to train on, {len(sides.val)} held out, {len(sides.skipped)} left out")
        # 2: an object store, and the datasets on it.
        with local_s3(port=args.port, log=_log_file(context.home)) as environment:
            os.environ.update(environment)
            on_s3 = context.at(datasets=f"{BUCKET}/datasets")
            on_s3.activate()
            ensure_bucket(BUCKET)
            train_data, val_data = pack_sides(sides, on_s3, replace=True)
            _stage(2, f"packed into {train_data.address} and {val_data.name}: digest {train_data.digest[:12]}")
            # The server forgets; commands after the demo find the same datasets in the store.
            for dataset in (train_data, val_data):
                print(f"      {keep_dataset(dataset, context)}", file=sys.stderr, flush=True)
            report = _from_data_to_picture(config, on_s3, val_data, typed=typed, fresh=args.fresh)
    # 7: the results. Refused gates are reported before the command fails.
    _stage(7, "every row on the same held-out pictures and holes:")
    report["seconds"] = round(time.monotonic() - started, 1)
    emit(args, report, _report_text(report))
    if not report["promoted"]:
        raise RunFailed("the gates refused the model: " + "; ".join(report["refusals"]))
    return 0


def _from_data_to_picture(
    config: ISNetConfig, context: Context, val_data: Dataset, *, typed: Typed, fresh: bool
) -> dict[str, Any]:
    # 3 and 4: the training and its record.
    _stage(3, f"training {config.train.steps} steps on {config.train.workers} Ray Train workers, from S3")
    prepared, outcome = run_training(config, context, fresh=fresh, typed=typed)
    _stage(4, f"recorded as MLflow run {prepared.run_id} in experiment {config.tracking.experiment!r}")

    # 5: the registry, the gates and the promotion.
    number = register_checkpoint(context, outcome.checkpoint, name=MODEL, run_id=prepared.run_id)
    version = ModelVersion(context.tracking_server, MODEL, number)
    rules = make_protocol(context, VAL, masks="irregular", size=config.data.evaluation_size)
    evaluations = _evaluations(config, context, version, rules)
    verdicts, is_promoted = _promote(context, version, evaluations, rules, gates=typed.preset)
    _stage(5, f"version {version.version} of {MODEL!r} {'is @production' if is_promoted else 'was refused'}")
    report: dict[str, Any] = {
        "run_id": prepared.run_id,
        "checkpoint": outcome.checkpoint,
        "state_digest": outcome.state_digest,
        "dataset_digest": prepared.dataset_digest,
        "version": version.version,
        "promoted": is_promoted,
        "refusals": [f"{v.gate}: {v.evidence}" for v in verdicts if not v.passed],
        "evaluations": evaluations,
        "home": str(context.home),
    }
    if is_promoted:
        # 6: the served model, as a user calls it.
        report["picture"] = str(_repair_in_new_process(context, val_data))
        _stage(6, f"a fresh process repaired a held-out photo with models:/{MODEL}@production: {report['picture']}")
    return report


def _evaluations(config: ISNetConfig, context: Context, version: ModelVersion, rules: Protocol) -> list[dict[str, Any]]:
    """Evaluates simple methods, then our version, on the same pairs."""
    models = [open_model(f"classical:{name}", context) for name in ("mean", "telea", "biharmonic")]
    # The weights that the training began with.
    models.append(untrained_model(config) if config.train.start_from is None else open_model(STARTER, context))
    models.append(open_model(version.address, context))
    evaluations = [measure_model(model, rules).evaluation for model in models]
    # Cards and gates read it from the version.
    version.attach_evaluation(evaluations[-1])
    return evaluations


def _promote(
    context: Context, version: ModelVersion, evaluations: list[dict[str, Any]], protocol: Protocol, *, gates: str
) -> tuple[list[GateVerdict], bool]:
    """Promotes the version if it passes the demo's gates."""
    # A second demo compares its version with the first one's.
    audited = audited_model(context, MODEL)
    current = audited.current_version()
    production = None
    if current not in (None, version.version):
        before = audited.model.version(str(current))
        # After a demo with other photos the two are not compared.
        if (before.evaluation or {}).get("dataset_digest") == evaluations[-1]["dataset_digest"]:
            production = measure_version(context, audited.store, before, protocol).evaluation
    verdicts = evaluate_gates(
        build(GateRules, read_yaml(PRESETS / "gates" / f"{gates}.yaml")),
        evaluations[-1],
        baselines={evaluation["model"]: evaluation for evaluation in evaluations[:-1]},
        production=production,
        lineage=version.lineage,
    )
    try:
        promote_version(audited, version, verdicts, expected=current, reason="isnet demo")
    except RunFailed:
        return verdicts, False
    return verdicts, True


def _repair_in_new_process(context: Context, val_data: Dataset) -> Path:
    """Damages a full-size held-out photo, then runs `isnet inpaint`."""
    photo = _odd_photo(val_data)
    height, width = photo.shape[:2]
    hole = irregular(height, width, np.random.default_rng(7), ratio=(0.15, 0.25))
    folder = context.home / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    # Write the damaged photo and its mask.
    damaged = np.where(hole[..., None], np.uint8(0), photo)
    Image.fromarray(damaged).save(folder / "damaged.png")
    Image.fromarray(np.where(hole, np.uint8(255), np.uint8(0))).save(folder / "mask.png")
    command = [sys.executable, "-m", "jobs.cli", "inpaint", str(folder / "damaged.png"), str(folder / "mask.png")]
    command += ["-o", str(folder / "repaired.png"), "--model", f"models:/{MODEL}@production", "--json"]
    command += ["--context", context.name]
    # The new process has nothing but the registry to find the model.
    finished = subprocess.run(
        command, env={**os.environ, "ISNET_HOME": str(context.home)}, capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise RunFailed(f"`isnet inpaint` failed in a fresh process: {finished.stderr.strip()}")
    # Pixels outside the hole must come back unchanged.
    # Check the result, and draw it beside the truth.
    repaired = np.asarray(Image.open(folder / "repaired.png"))
    if repaired.shape != photo.shape or not np.array_equal(repaired[~hole], photo[~hole]):
        raise RunFailed("the repaired picture differs from the photo outside the hole")
    filled = classical("telea").predict(photo.astype(np.float32) / np.float32(255), hole)
    telea = np.rint(filled * 255).astype(np.uint8)
    panels = [("damaged", damaged), ("OpenCV Telea", telea), ("repaired by @production", repaired), ("truth", photo)]
    Image.fromarray(strip(panels, columns=2)).save(folder / "before-after.png")
    return folder / "before-after.png"


def _odd_photo(val_data: Dataset) -> np.ndarray:
    """Picks a held-out photo of at most 1 megapixel."""
    photos = [decode_rgb(picture_bytes(sample)) for sample in read_samples(val_data, range(val_data.num_samples))]
    small = [photo for photo in photos if photo.shape[0] * photo.shape[1] <= 2**20] or photos[:1]
    # Preferably sides that are no multiples of 16: networks must handle these, too.
    return max(small, key=lambda photo: (photo.shape[0] % 16 > 0) + (photo.shape[1] % 16 > 0))


def _check_local(context: Context) -> None:
    """Refuses a context whose stores are buckets."""
    if any(address.startswith("s3://") for address in (context.datasets, context.checkpoints, context.artifacts)):
        raise UserError(
            f"the demo keeps everything on this machine, and stores of context {context.name!r} are in a bucket; "
            f"run it with --context local, or train there: `{command_line('train', 'demo')}`"
        )


def _check_resources(home: Path) -> None:
    """Checks memory and disk before anything starts."""
    home.mkdir(parents=True, exist_ok=True)
    memory = psutil.virtual_memory().available
    if memory < NEED_MEMORY_BYTES:
        raise UserError(
            f"{memory / 2**30:.1f} GiB of memory are free and the demo needs {NEED_MEMORY_BYTES / 2**30:.0f} "
            "(Ray alone takes two); close something and try again"
        )
    # Ray puts its session into /tmp.
    for folder in (home, Path("/tmp")):
        free = shutil.disk_usage(folder).free
        if free < NEED_DISK_BYTES:
            raise UserError(
                f"{free / 2**30:.1f} GiB are free at {folder} and the demo needs {NEED_DISK_BYTES / 2**30:.0f}; "
                "free some, or set ISNET_HOME to another disk"
            )


def _log_file(home: Path) -> Path:
    (home / "logs").mkdir(parents=True, exist_ok=True)
    return home / "logs" / "s3.log"


def _stage(number: int, text: str) -> None:
    print(f"[{number}/{STAGES}] {text}", file=sys.stderr, flush=True)


def _report_text(report: dict[str, Any]) -> str:
    """Formats the table of results and the next commands."""
    ours = report["evaluations"][-1]
    rows = [f"{'hole filled with':<36}{'PSNR dB':>9}{'SSIM':>9}{'L1 in hole':>12}"]
    names = {
        "classical:mean": "the mean colour",
        "classical:telea": "OpenCV Telea",
        "classical:biharmonic": "the smoothest continuation",
        "untrained": "the untrained network",
        STARTER: "the starter, before this training",
    }
    for evaluation in report["evaluations"]:
        row = evaluation["bins"]["all"]
        name = names.get(evaluation["model"], f"this model ({evaluation['model'].removeprefix('models:/')})")
        rows.append(f"{name:<36}{row['psnr']:>9.2f}{row['ssim']:>9.4f}{row['l1_hole']:>12.4f}")
    # All rows have the same pairs.
    first = report["evaluations"][0]["bins"]["all"]["n"]
    lines = [
        "",
        *rows,
        f"({first} pairs of held-out photo and hole, composite pictures)",
        "",
        terminal_text(Report({ours["model"]: ours})),
    ]
    if "picture" in report:
        lines += ["", f"before and after:  {report['picture']}"]
    lines += [
        f"MLflow's pages:    {command_line('ui')}       (experiment isnet-demo, run {report['run_id']})",
        f"the model:         {command_line('models', 'show', MODEL)}",
        f"took {report['seconds']:.0f} s; everything is in {report['home']}",
    ]
    return "\n".join(lines)
