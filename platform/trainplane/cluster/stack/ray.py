"""Ray on loopback behind a token: a head, two workers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from trainplane.cluster.jobs.queue import QUEUE_VARIABLES, head_args
from trainplane.cluster.ports import HOST
from trainplane.cluster.ray_session import LOOPBACK_VARIABLES
from trainplane.cluster.stack.layout import Component
from trainplane.cluster.stack.mlflow import mlflow_environment
from trainplane.cluster.stack.object_store import s3_environment
from trainplane.cluster.stack.supervisor import Launch
from trainplane.environ import SERVE_TOKEN_VARIABLE

# Drivers at once, each of a few hundred megabytes; the workers' processors are the tighter bound.
_DRIVERS = 4
# Only results of a few kilobytes of ours pass through Ray's object store.
_OBJECTS_BYTES = 128 * 2**20


class _Node(Component):
    # Ray gives a node 30 s to register, a constant of its code; on a busy machine that is little.
    attempts = 3

    @classmethod
    def install_command(cls) -> str | None:
        """Names Ray's package with its dashboard."""
        return None if (Path(sys.executable).parent / "ray").exists() else 'pip install "ray[default]"'

    def environment(self) -> dict[str, str]:
        """Variables of the node, with the secrets of its jobs."""
        # A job uses the secrets of the node that it runs on; it carries none.
        return {
            **s3_environment(self.layout, self.port),
            **mlflow_environment(self.layout),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.layout.secret("RAY_AUTH_TOKEN"),
            SERVE_TOKEN_VARIABLE: self.layout.secret(SERVE_TOKEN_VARIABLE),
            "RAY_USAGE_STATS_ENABLED": "0",
            # For the command itself; its child processes get the opposite (ray_start.py).
            **dict.fromkeys(LOOPBACK_VARIABLES, "1"),
            # Another cluster of this user may have left its address in the environment.
            "RAY_ADDRESS": "",
        }

    def launch_node(self, launch: Callable[[Launch], None], *args: str, **variables: str) -> None:
        """Launches `ray start` with more arguments and variables."""
        folder = self.layout.data(self.name)
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "trainplane.cluster.stack.ray_start", "start", "--block"]
        command += [f"--node-ip-address={HOST}", "--disable-usage-stats"]
        # An object store and a folder of its own, though Ray would share the head's among the nodes of one machine: a
        # node that gets a job's folders for the first time removes what is there, and the job's driver on another
        # node uses that as its current folder.
        command += [f"--object-store-memory={_OBJECTS_BYTES}", f"--temp-dir={self.layout.run / self.name}"]
        command += [f"--dashboard-agent-listen-port={self.port[f'{self.name}-agent']}", *args]
        launch(Launch(self.name, command, {**self.environment(), **variables}, folder))

    def health_addresses(self) -> Sequence[str]:
        """Address of the node's own agent."""
        return (f"http://{HOST}:{self.port[f'{self.name}-agent']}/api/local_raylet_healthz",)


class Head(_Node):
    """Head of the cluster: runs drivers of jobs, no work."""

    name = "head"
    # Its jobs have the store's keys, which a store creates when it starts for the first time.
    needs = ("store",)
    ports = ("dashboard", "gcs", "client", "head-agent")
    processes = ("head",)

    def start(self, launch: Callable[[Launch], None]) -> None:
        """Starts the head without processors or GPUs."""
        args = ["--head", f"--port={self.port['gcs']}", f"--ray-client-server-port={self.port['client']}"]
        args += [f"--dashboard-host={HOST}", f"--dashboard-port={self.port['dashboard']}"]
        args += ["--num-cpus=0", "--num-gpus=0", *head_args(_DRIVERS)]
        self.launch_node(launch, *args, **QUEUE_VARIABLES)

    def health_addresses(self) -> Sequence[str]:
        """Addresses of the cluster's control service and the agent."""
        return (f"{self.address()}/api/gcs_healthz", *super().health_addresses())

    def address(self) -> str:
        """Address of the dashboard, which takes jobs."""
        return f"http://{HOST}:{self.port['dashboard']}"


class _Worker(_Node):
    has_gpus = False

    def start(self, launch: Callable[[Launch], None]) -> None:
        """Starts a node with half of the machine's processors."""
        cpus = max(1, (os.cpu_count() or 1) // 2)
        args = [f"--address={HOST}:{self.port['gcs']}", f"--num-cpus={cpus}"]
        self.launch_node(launch, *args, *([] if self.has_gpus else ["--num-gpus=0"]))


class Worker1(_Worker):
    """First worker, with all GPUs of the machine."""

    needs = ("head",)
    name = "worker-1"
    ports = ("worker-1-agent",)
    processes = ("worker-1",)
    has_gpus = True


class Worker2(_Worker):
    """Second worker, without GPUs."""

    # After the first: two nodes that registered at one moment were seen to wait for the head for half a minute.
    needs = ("worker-1",)
    name = "worker-2"
    ports = ("worker-2-agent",)
    processes = ("worker-2",)
