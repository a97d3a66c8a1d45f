"""From a checkpoint to a model version: export, package, register. The same checkpoint is the same version.

A version holds everything needed to use it: folded weights, configuration, the package `isnet`, pinned requirements, a
licence, and golden pictures. What it earned (evaluation, verdicts, card) is kept beside it and may change.
"""

from __future__ import annotations

import json
import tempfile
from importlib import metadata
from pathlib import Path

from jobs.evaluation import model_card
from jobs.evaluation.models import generator_of, task_of_checkpoint
from jobs.isnet_task import TRAINED
from jobs.registry import golden
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.registry.package import package, register
from trainplane.tracking.client import reason
from trainplane.tracking.runs import find_run
from trainplane.train.checkpoint.pins import pinned
from trainplane.train.checkpoint.store import open_address

LICENCE = "LICENSE"
PARAMS: dict[str, str | bool | int] = {"hole": "white", "threshold": 128, "composite": True, "resize_mask": False}


def register_checkpoint(context: Context, place: str, *, name: str, run_id: str, licence: Path | None = None) -> str:
    """Register the checkpoint at `place`, made by MLflow run `run_id`; returns the version's number.

    It is pinned first: a run that is still training would take it away. `licence`: a file; the project's own otherwise.
    """
    text = licence_text(licence)
    store, found = open_address(place)
    with pinned(store, found.key, by=f"models:/{name}"):
        version = _register(context, f"{store.address}/{found.key}", name=name, run_id=run_id, licence=text)
    model_card.write(context, name, version)
    return version


def register_if_heard(context: Context, place: str, *, name: str, run_id: str) -> tuple[str | None, str]:
    """The new version, if MLflow answers; and what is said. A server that is away now takes nothing from the run."""
    from mlflow.exceptions import MlflowException

    try:
        version = register_checkpoint(context, place, name=name, run_id=run_id)
    except (UserError, MlflowException) as error:
        command = f"isnet models register runs:/{run_id} --name {name}"
        return None, f"not yet ({reason(error)}); `isnet runs sync`, then `{command}`"
    return version, f"{name} version {version}"


def _register(context: Context, place: str, *, name: str, run_id: str, licence: str | None) -> str:
    task, loaded = task_of_checkpoint(place)
    # By its id of the time when MLflow was away, too.
    run = find_run(context.tracking, run_id)
    facts = {
        "dataset_digest": str(loaded.meta["dataset_digest"]),
        "config_digest": str(loaded.meta["config_digest"]),
        "commit": run.data.tags.get("trainplane.commit", "unknown"),
        "state_digest": loaded.checkpoint.state_digest,
        "checkpoint": place,
    }
    with tempfile.TemporaryDirectory(prefix="isnet-export-") as folder:
        data = Path(folder) / "exported"
        data.mkdir()
        golden.write(generator_of(task).eval(), data)
        exported = task.export(data)
        if licence is not None:
            (data / LICENCE).write_text(licence, encoding="utf-8")
        _note_steps(data / TRAINED, loaded.state.step)
        model = package(
            exported,
            data=data,
            folder=Path(folder) / "model",
            inputs=("image", "mask"),
            outputs=("image", "notes"),
            params=PARAMS,
            created_ms=run.info.start_time,
            example=golden.requests()[0],
            metadata=facts,
        )
        return register(context.tracking, name, model, run_id=run.info.run_id, facts=facts, step=loaded.state.step)


def _note_steps(file: Path, steps: int) -> None:
    """Beside what the network was trained for, how long it was."""
    trained = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**trained, "steps": steps}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def licence_text(file: Path | None) -> str | None:
    """The licence of a version: a file's text, or the project's as it was installed; None where it was not, and then
    the gate on it will say so."""
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"licence {file} cannot be read ({error}); name a text file") from error
        if not text.strip():
            raise UserError(f"licence {file} is empty; name a file that says what may be done with the weights")
        return text
    try:
        files = metadata.files("isnet-platform") or []
    except metadata.PackageNotFoundError:
        return None
    return next((entry.read_text() for entry in files if entry.name == LICENCE), None)
