"""Record of one run in MLflow."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.find_run import find_run


class RunRecord:
    """One MLflow run, fetched at the first use and kept.

    Attributes:
        server: The server that has the run.
        asked_id: What the user gave: MLflow's id or its beginning, or the reserved id that the run had while MLflow was
            unreachable.
    """

    def __init__(self, server: TrackingServer, run_id: str) -> None:
        self.server = server
        self.asked_id = run_id.removeprefix("runs:/")

    @cached_property
    def run(self) -> Any:
        """MLflow's own object of the run; `UserError` where none is."""
        return find_run(self.server, self.asked_id)

    @property
    def run_id(self) -> str:
        """MLflow's id."""
        return str(self.run.info.run_id)

    @property
    def status(self) -> str:
        """MLflow's status, such as RUNNING or FINISHED."""
        return str(self.run.info.status)

    @property
    def tags(self) -> dict[str, str]:
        """Tags, MLflow's own among them."""
        return dict(self.run.data.tags)

    @property
    def params(self) -> dict[str, str]:
        """Recorded settings as text."""
        return dict(self.run.data.params)

    @property
    def datasets(self) -> list[tuple[str, Any]]:
        """Purpose ("" where unrecorded) and MLflow's dataset of each input."""
        inputs = self.run.inputs.dataset_inputs if self.run.inputs else []
        return [
            (next((tag.value for tag in entry.tags if tag.key == "mlflow.data.context"), ""), entry.dataset)
            for entry in inputs
        ]

    @cached_property
    def artifacts(self) -> frozenset[str]:
        """Names at the top of the run's artifacts."""
        return frozenset(entry.path for entry in self.server.client.list_artifacts(self.run_id))

    def read_text(self, name: str) -> str | None:
        """Text of a top-level artifact, if there is one."""
        if name not in self.artifacts:
            return None
        with tempfile.TemporaryDirectory() as folder:
            return Path(self.server.client.download_artifacts(self.run_id, name, folder)).read_text(encoding="utf-8")
