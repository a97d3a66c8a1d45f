"""Record of one run in MLflow."""

from __future__ import annotations

import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

from trainplane.errors import CLI, UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_id import find_reserved_run, is_reserved


class RunRecord:
    """One MLflow run, fetched at the first use and kept.

    Attributes:
        server: The server that has the run.
        asked_id: MLflow's id, or the reserved id that the run had while MLflow was unreachable.
    """

    def __init__(self, server: TrackingServer, run_id: str) -> None:
        self.server = server
        self.asked_id = run_id.removeprefix("runs:/")

    @cached_property
    def run(self) -> Any:
        """MLflow's own object of the run; `UserError` where none is."""
        from mlflow.exceptions import MlflowException

        client = self.server.client
        try:
            if not is_reserved(self.asked_id):
                return client.get_run(self.asked_id)
            run = find_reserved_run(client, self.asked_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise UserError(f"no run {self.asked_id!r} here; `{CLI} runs list` shows those there are") from error
            raise self.server.unreachable(error) from error
        if run is None:
            raise UserError(
                f"MLflow does not have run {self.asked_id} yet; `{CLI} runs sync` on the machine where it ran sends it"
            )
        return run

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
