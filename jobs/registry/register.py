"""Registers a checkpoint as a model version.

The same checkpoint always gives the same version. A version contains everything needed to use it: folded weights,
configuration, the package `isnet`, pinned requirements, a licence and golden pictures. Evaluation, verdicts and card
are stored beside it and may change.
"""

from __future__ import annotations

import json
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from isnet.served import PARAMETERS, TRAINED
from jobs.evaluation import model_card
from jobs.evaluation.models import eval_generator, load_task
from jobs.registry import golden
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.registry.package import package, register
from trainplane.registry.versions import ModelVersion, RegisteredModel
from trainplane.tracking.client import reason
from trainplane.tracking.run_record import RunRecord
from trainplane.train.checkpoint.pins import pinned
from trainplane.train.checkpoint.store import open_address

LICENCE = "LICENSE"


def register_checkpoint(context: Context, address: str, *, name: str, run_id: str, licence: Path | None = None) -> str:
    """Registers a checkpoint, writes its card, returns the version's number.

    Args:
        context: tracking server and stores.
        address: a run's folder, for its newest checkpoint, or one step in it.
        name: registered model.
        run_id: MLflow run that wrote the checkpoint.
        licence: file of the licence; the project's own by default.
    """
    text = licence_text(licence)
    store, checkpoint = open_address(address)
    # Pinned meanwhile: a run that is still training would delete the checkpoint.
    with pinned(store, checkpoint.key, by=f"models:/{name}"):
        version = _register(context, f"{store.address}/{checkpoint.key}", name=name, run_id=run_id, licence=text)
    model_card.write(version)
    return version.version


def try_register(context: Context, address: str, *, name: str, run_id: str) -> tuple[str | None, str]:
    """Registers a checkpoint if MLflow answers; never fails the run.

    Returns:
        Number of the version, or None, and a message.
    """
    from mlflow.exceptions import MlflowException

    try:
        version = register_checkpoint(context, address, name=name, run_id=run_id)
    except (UserError, MlflowException) as error:
        command = command_line("models", "register", run_id, "--name", name)
        return None, f"not yet ({reason(error)}); `{command_line('runs', 'sync')}`, then `{command}`"
    return version, f"{name} version {version}"


def _register(context: Context, address: str, *, name: str, run_id: str, licence: str | None) -> ModelVersion:
    # Facts for the version's tags: they lead from a model back to its data, settings, code and state.
    task, loaded = load_task(address)
    # The record also knows the id that a run had while MLflow was unreachable.
    run = RunRecord(context.tracking_server, run_id)
    facts = {
        "dataset_digest": _digest(loaded.meta, "dataset_digest", address),
        "config_digest": _digest(loaded.meta, "config_digest", address),
        "commit": run.tags.get("trainplane.commit", "unknown"),
        "state_digest": loaded.checkpoint.state_digest,
        "checkpoint": address,
    }
    with tempfile.TemporaryDirectory(prefix="isnet-export-") as scratch:
        # Export the network; before that, it answers the golden requests.
        data = Path(scratch) / "exported"
        data.mkdir()
        golden.write(eval_generator(task).eval(), data, trained_size=task.config.data.evaluation_size)
        exported = task.export(data)
        if licence is not None:
            (data / LICENCE).write_text(licence, encoding="utf-8")
        _add_steps(data / TRAINED, loaded.state.step)
        # Package it with code, requirements and licence, and register the package.
        folder = package(
            exported,
            data=data,
            folder=Path(scratch) / "model",
            inputs=("image", "mask"),
            outputs=("image", "notes"),
            params=PARAMETERS,
            created_ms=run.run.info.start_time,
            example=golden.requests()[0],
            metadata=facts,
        )
        model = RegisteredModel(context.tracking_server, name)
        # Beside the package, whose digest must not depend on how its run was started.
        page_tags = {"typed": run.tags.get("trainplane.typed", ""), "steps": str(loaded.state.step)}
        return register(model, folder, run=run, facts={**facts, **page_tags}, step=loaded.state.step)


def _digest(meta: dict[str, Any], name: str, address: str) -> str:
    """Digest that training stored with a checkpoint."""
    if not isinstance(value := meta.get(name), str):
        raise UserError(f"checkpoint {address} has no {name}, so no version can be traced back; give one of a run")
    return value


def _add_steps(file: Path, steps: int) -> None:
    """Adds the number of trained steps to the exported settings."""
    trained = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**trained, "steps": steps}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def licence_text(file: Path | None) -> str | None:
    """Reads a file's licence, or that of the installed project.

    None if the project was installed without its licence. The licence gate then fails.
    """
    if file is not None:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"licence {file} cannot be read ({error}); name a text file") from error
        if not text.strip():
            raise UserError(f"licence {file} is empty; name a file with the terms of use of the weights")
        return text
    # The licence is a file of the installed distribution.
    try:
        files = metadata.files("isnet-platform") or []
    except metadata.PackageNotFoundError:
        return None
    return next((entry.read_text() for entry in files if entry.name == LICENCE), None)
