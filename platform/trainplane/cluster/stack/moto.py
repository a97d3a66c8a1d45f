"""A mock of an object store, where no real one is installed: objects in memory, and anybody's keys are good."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec

from trainplane.cluster.stack.layout import HOST
from trainplane.cluster.stack.object_store import Store
from trainplane.cluster.stack.supervisor import Launch


class Moto(Store):
    """moto's server. What it holds goes with its process."""

    processes = ("moto",)

    @classmethod
    def missing(cls) -> str | None:
        found = all(find_spec(name) for name in ("moto", "flask", "flask_cors"))
        return None if found else 'pip install "moto[s3]" flask flask-cors'

    def start(self, launch: Callable[[Launch], None]) -> None:
        folder = self.site.data("moto")
        folder.mkdir(exist_ok=True)
        command = [
            sys.executable,
            "-c",
            "from moto.server import main; main()",
            "-H",
            HOST,
            "-p",
            str(self.port["store"]),
        ]
        launch(Launch("moto", command, {}, folder))

    def checks(self) -> Sequence[str]:
        return (f"{self.address()}/moto-api/",)
