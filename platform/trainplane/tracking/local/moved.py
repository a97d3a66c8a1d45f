"""Corrects addresses after the folder of a database was moved.

MLflow (3.17.2) stores absolute paths of local artifacts. Databases made here have theirs in `artifacts` beside them,
which the record of experiment 0 names: so a database knows where it was made, and a project that was renamed, moved or
copied would still read and write at its former place. The addresses below that place are rewritten once, when MLflow's
client is made; so are those of spools, whose records wait beside the database.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path

from trainplane.tracking.local.database import SQLITE, connection
from trainplane.tracking.spool.meta import replace_file

logger = logging.getLogger(__name__)

_ARTIFACTS = "artifacts"
# Columns that hold addresses, as texts or within JSON.
_COLUMNS = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "tags": ("value",),
    "datasets": ("dataset_source",),
    "logged_models": ("artifact_location",),
    "logged_model_tags": ("tag_value",),
    "model_versions": ("source", "storage_location"),
    "model_version_tags": ("value",),
    "registered_model_tags": ("value",),
    "trace_tags": ("value",),
}


def former_home(location: str, home: Path) -> str | None:
    """Folder that a database was moved from, or None.

    Args:
        location: Where experiment 0 has its artifacts.
        home: Folder of the database now, absolute.
    """
    former = location.removeprefix("file://").removesuffix(f"/{_ARTIFACTS}/0")
    if not former.startswith("/") or former == location.removeprefix("file://") or former == str(home):
        return None
    # A copy of the database alone leaves the artifacts where they are.
    return former if (home / _ARTIFACTS).is_dir() or not Path(former).exists() else None


def follow_move(database: Path) -> None:
    """Rewrites the addresses of a database that was moved."""
    home = database.parent.resolve()
    try:
        with connection(database) as reader:
            former = _former(reader, home)
        if former is None:
            return
        logger.info("%s was at %s: its addresses are corrected", home, former)
        # Spools first: once the database is right, nobody looks again.
        _correct_spools(home, former)
        with connection(database, may_write=True) as writer:
            _correct(writer, former, str(home))
    # A database that is damaged, locked or not to be written: MLflow's client says so where it matters.
    except (sqlite3.Error, OSError) as error:
        logger.info("the addresses in %s cannot be corrected (%s)", database, error)


def _former(reader: sqlite3.Connection, home: Path) -> str | None:
    row = reader.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0").fetchone()
    return former_home(str(row[0]), home) if row else None


def _correct(writer: sqlite3.Connection, former: str, home: str) -> None:
    # All or nothing: a kill in between leaves the database as it was.
    writer.execute("BEGIN IMMEDIATE")
    present = {row[0] for row in writer.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    for table, columns in _COLUMNS.items():
        for column in columns if table in present else ():
            for prefix in ("", "file://"):
                old, new = f"{prefix}{former}/", f"{prefix}{home}/"
                writer.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (new, len(old) + 1, len(old), old),
                )
            old, new = _quoted(former), _quoted(home)
            writer.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)", (old, new, old)
            )
    writer.execute("COMMIT")


def _correct_spools(home: Path, former: str) -> None:
    for about in (home / "spool").glob("*/about.json"):
        text = about.read_text()
        corrected = text
        for scheme in ("", SQLITE):
            corrected = corrected.replace(_quoted(former, scheme), _quoted(str(home), scheme))
        if corrected != text:
            replace_file(about, corrected.encode())


def _quoted(folder: str, scheme: str = "") -> str:
    """Beginning of an address below a folder, in JSON."""
    return json.dumps(f"{scheme}{folder}/")[:-1]
