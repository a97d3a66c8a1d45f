"""A Ray head without CPUs whose autoscaler starts nodes as processes of this machine.

Ray's own `AutoscalingCluster` begins with `ray stop --force`, which ends every Ray on the machine; this one has a
process group and a port of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from trainplane.cluster.ports import free_port

_EMPTY = ("head_setup_commands", "worker_setup_commands", "setup_commands", "initialization_commands")
_LISTS = (*_EMPTY, "cluster_synced_files", "rsync_exclude", "rsync_filter")


@contextlib.contextmanager
def autoscaling_cluster(folder: Path, *, node: dict[str, float], max_nodes: int) -> Iterator[str]:
    """Yields the address of a cluster with no node but the head, which can have `max_nodes` like `node`."""
    # Ray reads how to authenticate when it is imported, and other tests of this process need its token.
    from ray.util import get_node_ip_address

    address = f"{get_node_ip_address()}:{free_port()}"
    types = {
        "worker": {"resources": node, "node_config": {}, "min_workers": 0, "max_workers": max_nodes},
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    }
    config = {
        "cluster_name": "fake",
        "max_workers": max_nodes,
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 5,
        "provider": {"type": "fake_multinode", "gcs_address": address, "launch_multiple": True},
        "head_node_type": "ray.head.default",
        "available_node_types": types,
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "head_start_ray_commands": [],
        "worker_start_ray_commands": [],
        "auth": {},
        "docker": {},
        **{name: [] for name in _LISTS},
    }
    path = folder / "autoscaler.json"
    path.write_text(json.dumps(config))
    words = ["start", "--head", "--block", f"--port={address.rpartition(':')[2]}", "--num-cpus=0"]
    words += ["--include-dashboard=false", "--disable-usage-stats", f"--autoscaling-config={path}"]
    environment = {**os.environ, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    # Said, because Ray asks for a token if the user's home has one.
    environment["RAY_AUTH_MODE"] = "disabled"
    with (folder / "head.log").open("wb") as log:
        command = [str(Path(sys.executable).with_name("ray")), *words]
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_up(address, folder / "head.log")
        yield address
    finally:
        _end(head)


def _wait_until_up(address: str, log: Path) -> None:
    from ray._raylet import GcsClient

    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(Exception):
            GcsClient(address=address).check_alive([], timeout=1.0)
            return
        time.sleep(0.5)
    raise TimeoutError(log.read_text()[-2000:])


def _end(head: subprocess.Popen[bytes]) -> None:
    # The nodes are children of the head's monitor.
    with contextlib.suppress(psutil.NoSuchProcess):
        processes = psutil.Process(head.pid).children(recursive=True)
        for process in [*processes, psutil.Process(head.pid)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
    head.wait(timeout=30)
