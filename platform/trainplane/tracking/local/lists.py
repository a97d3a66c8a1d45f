"""Lists what a local database has, in milliseconds.

To import MLflow and its store costs two seconds of a processor (3.17.2), which is all that a list would do. So lists
read the tables themselves, as long as these have the form that is known here. For any other form, and for servers,
`read_locally` gives None, and MLflow's client reads.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from trainplane.tracking.local.database import SQLITE, connection, database_path

# Form of MLflow's tables that the queries below are written for (MLflow 3.17.2).
SCHEMA = "dc11669786a5"
T = TypeVar("T")


@dataclass(frozen=True)
class FoundRun:
    """One run of a list."""

    run_id: str
    name: str
    experiment_id: str
    status: str  # MLflow's status
    start_ms: int  # Since 1970
    metrics: dict[str, float] = field(repr=False)  # Last values
    # Where asked for: settings that were typed, tags, and the address of the artifacts
    params: dict[str, str] = field(default_factory=dict, repr=False)
    tags: dict[str, str] = field(default_factory=dict, repr=False)
    artifacts: str = ""

    @classmethod
    def of(cls, run: Any) -> FoundRun:
        """Takes from MLflow's object what a list shows."""
        info, data = run.info, run.data
        return cls(
            info.run_id,
            info.run_name,
            info.experiment_id,
            info.status,
            info.start_time,
            data.metrics,
            data.params,
            data.tags,
            info.artifact_uri or "",
        )


@dataclass(frozen=True)
class LocalLists:
    """Lists of one database, open for reading."""

    database: sqlite3.Connection

    def experiments(self) -> dict[str, str]:
        """Names of experiments, by id."""
        rows = self.database.execute("SELECT experiment_id, name FROM experiments WHERE lifecycle_stage = 'active'")
        return {str(number): str(name) for number, name in rows}

    def runs(
        self,
        experiments: Sequence[str],
        *,
        status: str | None = None,
        tag: tuple[str, str] | None = None,
        prefix: str = "",
        limit: int | None = None,
        with_settings: bool = False,
    ) -> list[FoundRun]:
        """Newest runs, the newest first; `prefix` begins an id."""
        conditions = ["lifecycle_stage = 'active'", f"experiment_id IN ({', '.join('?' * len(experiments))})"]
        values: list[Any] = [int(number) for number in experiments]
        if status is not None:
            conditions.append("status = ?")
            values.append(status)
        if tag is not None:
            conditions.append("run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)")
            values += tag
        if prefix:
            conditions.append("substr(run_uuid, 1, ?) = ?")
            values += [len(prefix), prefix]
        rows = self.database.execute(
            "SELECT run_uuid, name, experiment_id, status, start_time, artifact_uri FROM runs "
            f"WHERE {' AND '.join(conditions)} ORDER BY start_time DESC, run_uuid LIMIT ?",
            [*values, -1 if limit is None else limit],
        ).fetchall()
        return [
            FoundRun(
                run_id,
                name,
                str(experiment),
                run_status,
                start_ms,
                self._metrics(run_id),
                self._texts("params", run_id) if with_settings else {},
                self._texts("tags", run_id) if with_settings else {},
                artifacts or "",
            )
            for run_id, name, experiment, run_status, start_ms, artifacts in rows
        ]

    def _texts(self, table: str, run_id: str) -> dict[str, str]:
        return dict(self.database.execute(f"SELECT key, value FROM {table} WHERE run_uuid = ?", [run_id]))

    def _metrics(self, run_id: str) -> dict[str, float]:
        rows = self.database.execute("SELECT key, value, is_nan FROM latest_metrics WHERE run_uuid = ?", [run_id])
        return {key: math.nan if is_nan else value for key, value, is_nan in rows}

    def num_running(self) -> int:
        """Number of runs that are RUNNING."""
        return int(self.database.execute("SELECT count(*) FROM runs WHERE status = 'RUNNING'").fetchone()[0])

    def models(self) -> list[dict[str, Any]]:
        """Registered models by name: {name, latest, aliases}."""
        latest = dict(
            self.database.execute(
                "SELECT name, max(version) FROM model_versions WHERE current_stage != 'Deleted_Internal' GROUP BY name"
            )
        )
        aliases: dict[str, dict[str, str]] = {}
        for name, alias, version in self.database.execute(
            "SELECT name, alias, version FROM registered_model_aliases ORDER BY alias"
        ):
            aliases.setdefault(name, {})[alias] = str(version)
        names = self.database.execute("SELECT name FROM registered_models ORDER BY name")
        return [
            {"name": name, "latest": str(latest[name]) if name in latest else None, "aliases": aliases.get(name, {})}
            for (name,) in names
        ]


def read_locally(address: str, question: Callable[[LocalLists], T]) -> T | None:
    """Answers from a local database, or None."""
    path = database_path(address)
    if not address.startswith(SQLITE) or not path.exists():
        return None
    try:
        return _ask(path, question)
    # Damaged, locked or of another form: MLflow's client says what is wrong.
    except sqlite3.Error:
        return None


def _ask(path: Path, question: Callable[[LocalLists], T]) -> T | None:
    with connection(path) as database:
        # One state of the database for all queries of a question.
        database.execute("BEGIN")
        [version] = database.execute("SELECT version_num FROM alembic_version").fetchone() or [None]
        return question(LocalLists(database)) if version == SCHEMA else None
