"""Whose records lie in a spool: the small file `about.json` beside them.

A spool that was opened while MLflow was away knows its run by a reserved id and by what it is to be made with; whoever
sends it settles the run first and puts MLflow's id here.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainplane.errors import UserError
from trainplane.tracking.run_id import Birth, is_reserved, settle


@dataclass(frozen=True)
class About:
    """run_id -- MLflow's id, or a reserved one; tracking -- the address, without secrets; birth -- where known"""

    run_id: str
    tracking: str
    birth: Birth | None = None


def read_about(folder: Path) -> About:
    """What the folder says of itself. Raises `UserError` where it is no spool."""
    try:
        stored = json.loads((folder / "about.json").read_text())
        birth = Birth(**stored["birth"]) if stored.get("birth") else None
        return About(str(stored["run_id"]), str(stored["tracking"]), birth)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder}: is no spool (about.json is missing or damaged); give the folder of one run"
        ) from error


def write_about(folder: Path, about: About) -> None:
    """Replaces it atomically."""
    birth = about.birth.to_json() if about.birth else None
    text = json.dumps({"run_id": about.run_id, "tracking": about.tracking, "birth": birth})
    replace_file(folder / "about.json", text.encode())


def introduced(folder: Path, about: About) -> About:
    """Write `about`, without forgetting an id of MLflow's that is known already."""
    try:
        known = read_about(folder)
    except UserError:
        known = about
    if is_reserved(about.run_id) and not is_reserved(known.run_id) and known.tracking == about.tracking:
        about = replace(about, run_id=known.run_id)
    write_about(folder, replace(about, birth=about.birth or known.birth))
    return about


def settled_id(folder: Path, client: Any) -> str:
    """MLflow's id of the run whose records lie here; the run is made where it is new. Raises what MLflow raises."""
    about = read_about(folder)
    if not is_reserved(about.run_id):
        return about.run_id
    if about.birth is None:
        raise UserError(f"{folder}: its run {about.run_id} was never made in MLflow, and what it is made with is gone")
    run_id = str(settle(client, about.birth).run.info.run_id)
    write_about(folder, replace(about, run_id=run_id))
    return run_id


def replace_file(path: Path, data: bytes) -> None:
    """Write the whole file or nothing."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
