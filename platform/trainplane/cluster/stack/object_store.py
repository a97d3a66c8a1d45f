"""Object stores of the stack: common part, and moto."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec

from trainplane.cluster.ports import HOST
from trainplane.cluster.stack.layout import Component, StackLayout
from trainplane.cluster.stack.supervisor import Launch

BUCKET = "isnet"
REGION = "us-east-1"


class ObjectStore(Component):
    """An S3 server on the port `store`, with one bucket."""

    name = "store"
    ports: tuple[str, ...] = ("store",)

    def address(self) -> str:
        """Address of its S3 interface."""
        return f"http://{HOST}:{self.port['store']}"

    def initialize(self) -> None:
        """Creates the bucket if it is missing."""
        from trainplane.storage.make_bucket import make_bucket

        make_bucket(
            BUCKET,
            endpoint=self.address(),
            keys=(self.layout.secret("AWS_ACCESS_KEY_ID"), self.layout.secret("AWS_SECRET_ACCESS_KEY")),
        )


class Moto(ObjectStore):
    """moto's server: objects in memory, any keys accepted."""

    processes = ("moto",)

    @classmethod
    def install_command(cls) -> str | None:
        """Names the packages, unless all of them are installed."""
        is_installed = all(find_spec(name) for name in ("moto", "flask", "flask_cors"))
        return None if is_installed else 'pip install "moto[s3]" flask flask-cors'

    def start(self, launch: Callable[[Launch], None]) -> None:
        """Starts the server."""
        folder = self.layout.data("moto")
        folder.mkdir(exist_ok=True)
        launch(Launch("moto", moto_command(self.port["store"]), {}, folder))

    def health_addresses(self) -> Sequence[str]:
        """Address of moto's own pages."""
        return (f"{self.address()}/moto-api/",)


def moto_command(port: int) -> list[str]:
    """Command line of moto's server on loopback."""
    return [sys.executable, "-c", "from moto.server import main; main()", "-H", HOST, "-p", str(port)]


def s3_environment(layout: StackLayout, port: Mapping[str, int]) -> dict[str, str]:
    """Variables that lead boto3, pyarrow and MLflow to the store."""
    endpoint = f"http://{HOST}:{port['store']}"
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": layout.secret("AWS_ACCESS_KEY_ID"),
        "AWS_SECRET_ACCESS_KEY": layout.secret("AWS_SECRET_ACCESS_KEY"),
        "AWS_DEFAULT_REGION": REGION,
        # pyarrow sends trailing checksums by default, which Ceph's gateway of 2021 refuses.
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    }
