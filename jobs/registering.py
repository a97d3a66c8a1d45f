"""From a checkpoint to a model version: export, package, register. The same checkpoint is the same version."""

from __future__ import annotations

import base64
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from jobs.model_ref import task_of_checkpoint
from trainplane.cluster.context import Context
from trainplane.registry.package import package, register
from trainplane.tracking.client import client_for
from trainplane.train.checkpoint import open_address
from trainplane.train.pins import pinned


def register_checkpoint(context: Context, place: str, *, name: str, run_id: str) -> str:
    """Register the checkpoint at `place`, made by MLflow run `run_id`; returns the version's number.

    It is pinned first: a run that is still training would take it away.
    """
    store, found = open_address(place)
    with pinned(store, found.key, by=f"models:/{name}"):
        return _register(context, f"{store.address}/{found.key}", name=name, run_id=run_id)


def _register(context: Context, place: str, *, name: str, run_id: str) -> str:
    task, loaded = task_of_checkpoint(place)
    run = client_for(context.tracking).get_run(run_id)
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
        exported = task.export(data)
        model = package(
            exported,
            data=data,
            folder=Path(folder) / "model",
            inputs=("image", "mask"),
            outputs=("image",),
            created_ms=run.info.start_time,
            example=example(),
            metadata=facts,
        )
        return register(context.tracking, name, model, run_id=run_id, facts=facts, step=loaded.state.step)


def example() -> dict[str, str]:
    """One small row of the signature: a gradient with a hole in its middle, as base64 PNG."""
    ramp = np.linspace(0, 255, 32).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
    mask = np.zeros((32, 32), np.uint8)
    mask[12:20, 12:20] = 255
    return {"image": _png(image), "mask": _png(mask)}


def _png(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
