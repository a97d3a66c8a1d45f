"""MLflow server over PostgreSQL and S3, with passwords."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from trainplane.cluster.ports import HOST
from trainplane.cluster.stack.layout import Component, StackLayout
from trainplane.cluster.stack.object_store import BUCKET, s3_environment
from trainplane.cluster.stack.supervisor import Launch

_AUTH = """[mlflow]
database_uri = {database}
default_permission = READ
admin_username = admin
; Without it each request costs a quarter of a second of password hashing.
auth_cache_ttl_seconds = 60
"""


class MLflow(Component):
    """The server; its user is `admin`, with a generated password."""

    name = "mlflow"
    needs = ("postgres", "store")
    ports = ("mlflow",)
    processes = ("mlflow",)

    @classmethod
    def install_command(cls) -> str | None:
        """Names the extra of MLflow that its passwords need."""
        return None if find_spec("flask_wtf") else 'pip install "mlflow[auth]==3.17.2"'

    def start(self, launch: Callable[[Launch], None]) -> None:
        """Writes its configuration and starts it."""
        folder = self.layout.data("mlflow")
        folder.mkdir(exist_ok=True)
        port = self.port["postgres"]
        # No password in any address: libpq reads it from this file.
        passwords = self.layout.write_secret("pgpass", f"{HOST}:{port}:*:mlflow:{self.layout.secret('PGPASSWORD')}")
        database = f"postgresql+psycopg2://mlflow@{HOST}:{port}/mlflow"
        (folder / "basic_auth.ini").write_text(_AUTH.format(database=database), encoding="utf-8")
        environment = {
            **s3_environment(self.layout, self.port),
            "PGPASSFILE": str(passwords),
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.layout.secret("MLFLOW_TRACKING_PASSWORD"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.layout.secret("MLFLOW_FLASK_SERVER_SECRET_KEY"),
            # Scorers of language models: six processes and a gigabyte that are not used here.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [str(Path(sys.executable).parent / "mlflow"), "server"]
        command += ["--host", HOST, "--port", str(self.port["mlflow"]), "--workers", "1", "--app-name", "basic-auth"]
        command += ["--default-artifact-root", f"s3://{BUCKET}/artifacts", "--no-serve-artifacts"]
        launch(Launch("mlflow", command, environment, folder))

    def health_addresses(self) -> Sequence[str]:
        """Address of its health check, which needs no password."""
        return (f"{self.address()}/health",)

    def address(self) -> str:
        """Address of its pages and its API."""
        return f"http://{HOST}:{self.port['mlflow']}"


def mlflow_environment(layout: StackLayout) -> dict[str, str]:
    """Variables that a client needs besides the address."""
    return {
        "MLFLOW_TRACKING_USERNAME": layout.secret("MLFLOW_TRACKING_USERNAME", lambda: "admin"),
        "MLFLOW_TRACKING_PASSWORD": layout.secret("MLFLOW_TRACKING_PASSWORD"),
    }
