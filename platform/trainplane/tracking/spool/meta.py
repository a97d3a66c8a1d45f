"""The file `about.json` of a spool: run and server.

A spool opened without MLflow has a reserved run id and the arguments to create the run. The uploader creates it first.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainplane.errors import UserError
from trainplane.tracking.run_id import RunSpec, find_or_create, is_reserved


@dataclass(frozen=True)
class SpoolMeta:
    """Run and server of a spool's records."""

    run_id: str  # MLflow's id, or a reserved one
    tracking: str  # Address of the server, without secrets
    run_spec: RunSpec | None = None  # Arguments to create the run, if they are recorded


def read_meta(folder: Path) -> SpoolMeta:
    """Reads `about.json`; raises `UserError` where the folder is no spool."""
    try:
        stored = json.loads((folder / "about.json").read_text())
        # The key's name is that of the stored format.
        run_spec = RunSpec(**stored["birth"]) if stored.get("birth") else None
        return SpoolMeta(str(stored["run_id"]), str(stored["tracking"]), run_spec)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: is no spool (about.json is missing or damaged); give the folder of one run"
        ) from error


def write_meta(folder: Path, meta: SpoolMeta) -> None:
    """Replaces `about.json` atomically."""
    run_spec = meta.run_spec.to_json() if meta.run_spec else None
    text = json.dumps({"run_id": meta.run_id, "tracking": meta.tracking, "birth": run_spec})
    replace_file(folder / "about.json", text.encode())


def update_meta(folder: Path, meta: SpoolMeta) -> SpoolMeta:
    """Writes `meta`, but keeps a stored MLflow id and `RunSpec`."""
    try:
        stored = read_meta(folder)
    except UserError:
        stored = meta
    # The uploader may have stored MLflow's id since the caller read the reserved one.
    if is_reserved(meta.run_id) and not is_reserved(stored.run_id) and stored.tracking == meta.tracking:
        meta = replace(meta, run_id=stored.run_id)
    write_meta(folder, replace(meta, run_spec=meta.run_spec or stored.run_spec))
    return meta


def resolve_run_id(folder: Path, client: Any) -> str:
    """MLflow's id of the spool's run; creates a missing run.

    Raises `UserError` if the arguments to create it are missing, `MlflowException` if the server refused or failed.
    """
    meta = read_meta(folder)
    if not is_reserved(meta.run_id):
        return meta.run_id
    if meta.run_spec is None:
        raise UserError(
            f"{folder}: its run {meta.run_id} was never created in MLflow, and about.json lacks the arguments for it"
        )
    run, _ = find_or_create(client, meta.run_spec)
    # Stored before anything is sent, so that the next upload need not search for the run.
    run_id = str(run.info.run_id)
    write_meta(folder, replace(meta, run_id=run_id))
    return run_id


def replace_file(path: Path, data: bytes) -> None:
    """Writes a whole file or nothing."""
    # A name of this thread alone: two may replace the same file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
