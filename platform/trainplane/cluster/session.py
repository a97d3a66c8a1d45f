"""A Ray cluster to run on: the one we are a job of, or a private one on this machine that ends with the command."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def in_ray_job() -> bool:
    """Whether this process was started as a job of a Ray cluster."""
    return bool(os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_ID"))


@contextmanager
def ray_session(*, num_cpus: int | None = None) -> Iterator[Any]:
    """The connected `ray` module; a private cluster is shut down at the end, whatever happened.

    The private cluster listens on loopback only and asks for a token made for this one command. Its dashboard stays
    on, because without it Ray never releases the resources of an ended trial or trainer.
    """
    outside = in_ray_job()
    if not outside:
        # Set before Ray is imported: its processes inherit them, and nothing is written to the user's home.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # A minute is short for workers that import torch on a busy node, or for a node that is still on its way.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")
    import ray

    if ray.is_initialized():
        yield ray
        return
    if outside:
        ray.init(log_to_driver=False, logging_level="ERROR")
    else:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=True,
            dashboard_host="127.0.0.1",
            _node_ip_address="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
        )
    try:
        yield ray
    finally:
        ray.shutdown()
        if not outside:
            del os.environ["RAY_AUTH_TOKEN"], os.environ["RAY_AUTH_MODE"]


@contextmanager
def scratch_folder() -> Iterator[str]:
    """Where Ray Train and Tune may keep their own notes; ours are elsewhere, so these go with the command."""
    with tempfile.TemporaryDirectory(prefix="isnet-ray-") as folder:
        yield folder
