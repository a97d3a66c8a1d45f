"""Ray: a head that only directs, and two workers, on loopback, behind a token."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainplane.cluster.jobs.queue import PATIENCE, head_words
from trainplane.cluster.ray_session import ON_LOOPBACK
from trainplane.cluster.stack.layout import HOST, Part
from trainplane.cluster.stack.mlflow import mlflow_environment
from trainplane.cluster.stack.object_store import s3_environment
from trainplane.cluster.stack.supervisor import Launch

# Drivers at once, each of a few hundred megabytes; the workers' processors are the tighter bound.
_DRIVERS = 4
# Nothing of ours goes through Ray's object store but results of a few kilobytes.
_OBJECTS_BYTES = 128 * 2**20


class _Node(Part):
    # Ray gives a node 30 s to register, by a number in its code; on a busy machine that is little.
    attempts = 3

    def environment(self) -> dict[str, str]:
        """Secrets of jobs are those of the node they run on; none travels with a job."""
        return {
            **s3_environment(self.site, self.port),
            **mlflow_environment(self.site),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.site.secret("RAY_AUTH_TOKEN"),
            "RAY_USAGE_STATS_ENABLED": "0",
            # For the command itself; what it starts is told the opposite (ray_start.py).
            **dict.fromkeys(ON_LOOPBACK, "1"),
            # Another cluster of this user may leave its address in the environment.
            "RAY_ADDRESS": "",
        }

    @classmethod
    def missing(cls) -> str | None:
        return None if _ray().exists() else 'pip install "ray[default]"'

    def folder(self) -> Path:
        made = self.site.data(self.name)
        made.mkdir(exist_ok=True)
        return made

    def command(self, *words: str) -> list[str]:
        fixed = [
            sys.executable,
            "-m",
            "trainplane.cluster.stack.ray_start",
            "start",
            "--block",
            f"--node-ip-address={HOST}",
            "--disable-usage-stats",
        ]
        # Its own, though Ray would share the head's among the nodes of one machine: a node that meets a job's folders
        # for the first time removes what is there, which is where the job's driver on another node stands.
        fixed += [f"--object-store-memory={_OBJECTS_BYTES}", f"--temp-dir={self.site.run / self.name}"]
        return [*fixed, f"--dashboard-agent-listen-port={self.port[f'{self.name}-agent']}", *words]

    def _alive(self) -> str:
        return f"http://{HOST}:{self.port[f'{self.name}-agent']}/api/local_raylet_healthz"


class Head(_Node):
    """The head: jobs are handed to its dashboard, drivers run on it, work does not."""

    name = "head"
    # Its jobs have the store's keys, and a store that starts for the first time makes them up.
    needs = ("store",)
    ports = ("dashboard", "gcs", "client", "head-agent")
    processes = ("head",)

    def start(self, launch: Callable[[Launch], None]) -> None:
        words = ["--head", f"--port={self.port['gcs']}", f"--ray-client-server-port={self.port['client']}"]
        words += [
            f"--dashboard-host={HOST}",
            f"--dashboard-port={self.port['dashboard']}",
            "--num-cpus=0",
            "--num-gpus=0",
            *head_words(_DRIVERS),
        ]
        launch(Launch("head", self.command(*words), {**self.environment(), **PATIENCE}, self.folder()))

    def checks(self) -> Sequence[str]:
        return (f"{self.address()}/api/gcs_healthz", self._alive())

    def address(self) -> str:
        return f"http://{HOST}:{self.port['dashboard']}"


class Worker(_Node):
    """One of two; the first has the machine's GPUs, if it has any. Each has half of its processors, at least one."""

    needs = ("head",)
    has_gpus = False

    def start(self, launch: Callable[[Launch], None]) -> None:
        cpus = max(1, (os.cpu_count() or 1) // 2)
        words = [f"--address={HOST}:{self.port['gcs']}", f"--num-cpus={cpus}"]
        words += [] if self.has_gpus else ["--num-gpus=0"]
        launch(Launch(self.name, self.command(*words), self.environment(), self.folder()))

    def checks(self) -> Sequence[str]:
        return (self._alive(),)


class Worker1(Worker):
    name = "worker-1"
    ports = ("worker-1-agent",)
    processes = ("worker-1",)
    has_gpus = True


class Worker2(Worker):
    # In turn: two nodes that register at one moment were seen to wait for the head for half a minute.
    needs = ("worker-1",)
    name = "worker-2"
    ports = ("worker-2-agent",)
    processes = ("worker-2",)


def _ray() -> Path:
    return Path(sys.executable).parent / "ray"
