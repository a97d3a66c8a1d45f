"""Registers the starter as versions of a model, in a second: for tests that serve, and need no training."""

from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import isnet
from isnet.served import PARAMETERS
from isnet.weights import load_model, save_model
from jobs import starter
from jobs.registry import golden
from trainplane.cluster.context import Context
from trainplane.registry.gates import GateVerdict
from trainplane.registry.package import package, register
from trainplane.registry.promote import AuditedModel
from trainplane.registry.versions import ModelVersion, RegisteredModel
from trainplane.storage import open_store
from trainplane.task import Exported
from trainplane.tracking.run_record import RunRecord

FACTS = {"dataset_digest": "d" * 64, "config_digest": "c" * 64, "commit": "a" * 40}


def register_starter(context: Context, name: str, folder: Path, *, scale: float = 1.0) -> ModelVersion:
    """Registers the starter with scaled weights as the next version of a model.

    Args:
        context: where it is registered.
        name: of the model.
        folder: for files on the way; must not exist.
        scale: of the last layer's weights; 1 gives the starter, NaN a network that answers NaN.
    """
    data = folder / "exported"
    data.mkdir(parents=True)
    network = load_model(starter.FOLDER)
    last = [parameter for parameter in network.parameters() if parameter.ndim == 4][-1]
    with torch.no_grad():
        last.mul_(scale)
    save_model(network, data)
    shutil.copyfile(starter.FOLDER / "trained.json", data / "trained.json")
    client = context.tracking_server.client
    experiment = client.get_experiment_by_name("starter")
    experiment_id = (
        experiment.experiment_id
        if experiment is not None
        else client.create_experiment("starter", artifact_location=f"{context.artifacts}/starter")
    )
    run = client.create_run(experiment_id)
    exported = Exported("isnet.served", [Path(str(isnet.__file__)).parent], [f"torch=={metadata.version('torch')}"])
    packaged = package(
        exported,
        data=data,
        folder=folder / "model",
        inputs=("image", "mask"),
        outputs=("image", "notes"),
        params=PARAMETERS,
        created_ms=run.info.start_time,
        example=golden.requests()[0],
        metadata=FACTS,
    )
    record: Any = RunRecord(context.tracking_server, run.info.run_id)
    return register(RegisteredModel(context.tracking_server, name), packaged, run=record, facts=FACTS)


def promote(context: Context, version: ModelVersion, *, alias: str = "production") -> None:
    """Moves an alias to a version, with a record."""
    audited(context, version.name).promote(version, verdicts=[GateVerdict("tried", True, "by a test", {})], alias=alias)


def audited(context: Context, name: str) -> AuditedModel:
    """The model whose aliases move with records."""
    return AuditedModel(context.tracking_server, name, open_store(context.audit))
