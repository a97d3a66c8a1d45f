"""A real autoscaler starts nodes for what we ask of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from autoscaling_cluster import autoscaling_cluster

_DRIVER = """
import sys, time
import ray
from trainplane.cluster.autoscaler import NodeRequest, has_autoscaler
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 60
while not has_autoscaler(ray) and time.monotonic() < deadline:
    time.sleep(0.5)
assert has_autoscaler(ray)
assert "CPU" not in ray.cluster_resources()
request = NodeRequest([{"CPU": 2.0}, {"CPU": 2.0}])
assert not request.is_met()
while not request.is_met() and time.monotonic() < deadline + 120:
    time.sleep(0.2)
print(ray.cluster_resources()["CPU"], ray.available_resources().get("CPU", 0.0))
request.cancel()
while ray.available_resources().get("CPU") != 4.0:
    time.sleep(0.2)
print("free")
"""


@pytest.mark.nightly
def test_an_empty_cluster_gets_the_nodes_that_are_asked_for(tmp_path: Path) -> None:
    with autoscaling_cluster(tmp_path, node={"CPU": 2}, max_nodes=2) as address:
        ran = subprocess.run(
            [sys.executable, "-c", _DRIVER, address], capture_output=True, text=True, timeout=300, check=False
        )
    assert ran.stdout.split() == ["4.0", "0.0", "free"], ran.stderr


def test_a_head_started_by_hand_has_none() -> None:
    import ray

    from trainplane.cluster.autoscaler import has_autoscaler

    assert not ray.is_initialized()
    assert not has_autoscaler(ray)
