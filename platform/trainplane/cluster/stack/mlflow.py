"""The MLflow server: its tables in PostgreSQL, behind passwords; artifacts go straight to S3."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from trainplane.cluster.stack.layout import HOST, Part, Site
from trainplane.cluster.stack.object_store import BUCKET, s3_environment
from trainplane.cluster.stack.supervisor import Launch

_AUTH = """[mlflow]
database_uri = {database}
default_permission = READ
admin_username = admin
; Without it each request costs a quarter of a second of password hashing.
auth_cache_ttl_seconds = 60
"""


class MLflow(Part):
    """`admin` and a password that was made for this stack."""

    name = "mlflow"
    needs = ("postgres", "store")
    ports = ("mlflow",)
    processes = ("mlflow",)

    @classmethod
    def missing(cls) -> str | None:
        return None if find_spec("flask_wtf") else 'pip install "mlflow[auth]==3.17.2"'

    def start(self, launch: Callable[[Launch], None]) -> None:
        folder = self.site.data("mlflow")
        folder.mkdir(exist_ok=True)
        port = self.port["postgres"]
        # No password in any address: libpq reads it from this file.
        passwords = self.site.write_secret("pgpass", f"{HOST}:{port}:*:mlflow:{self.site.secret('PGPASSWORD')}")
        database = f"postgresql+psycopg2://mlflow@{HOST}:{port}/mlflow"
        (folder / "basic_auth.ini").write_text(_AUTH.format(database=database), encoding="utf-8")
        environment = {
            **s3_environment(self.site, self.port),
            "PGPASSFILE": str(passwords),
            "MLFLOW_BACKEND_STORE_URI": database,
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.site.secret("MLFLOW_TRACKING_PASSWORD"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.site.secret("MLFLOW_FLASK_SERVER_SECRET_KEY"),
            # Scorers of language models: six processes and a gigabyte that nothing here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        command = [
            str(Path(sys.executable).parent / "mlflow"),
            "server",
            "--host",
            HOST,
            "--port",
            str(self.port["mlflow"]),
        ]
        command += ["--workers", "1", "--app-name", "basic-auth"]
        command += ["--default-artifact-root", f"s3://{BUCKET}/artifacts", "--no-serve-artifacts"]
        launch(Launch("mlflow", command, environment, folder))

    def checks(self) -> Sequence[str]:
        return (f"{self.address()}/health",)

    def address(self) -> str:
        return f"http://{HOST}:{self.port['mlflow']}"


def mlflow_environment(site: Site) -> dict[str, str]:
    """What a client of it needs beside its address."""
    return {
        "MLFLOW_TRACKING_USERNAME": site.secret("MLFLOW_TRACKING_USERNAME", lambda: "admin"),
        "MLFLOW_TRACKING_PASSWORD": site.secret("MLFLOW_TRACKING_PASSWORD"),
    }
