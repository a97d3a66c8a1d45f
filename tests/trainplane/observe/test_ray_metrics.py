"""Metrics of a process of Ray stand at its node's exporter, under the names of the dashboard."""

import os
import subprocess
import sys

import pytest

from trainplane.cluster.ports import free_port

CODE = """
import sys, time, urllib.request
from trainplane.cluster.ray_session import ray_variables
import os
os.environ.update(ray_variables(in_job=False))
import ray
port = int(sys.argv[1])
ray.init(address="local", num_cpus=1, _metrics_export_port=port, include_dashboard=False, log_to_driver=False,
         _system_config={"metrics_report_interval_ms": 1000})

@ray.remote
class Rank:
    def show(self):
        from trainplane.observe.sinks import Metrics, sinks_here
        Metrics(sinks_here("x"), {"run": "seen", "rank": "3"}).show({"isnet_run_step": 41.0})

rank = Rank.remote()
deadline = time.monotonic() + 90
while time.monotonic() < deadline:
    ray.get(rank.show.remote())
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    except OSError:
        text = ""
    lines = [line for line in text.splitlines() if line.startswith("ray_isnet_run_step{")]
    if lines:
        print(lines[0])
        break
    time.sleep(0.5)
ray.shutdown()
"""


@pytest.mark.real
def test_a_rank_under_ray_is_seen_at_its_nodes_exporter(tmp_path):
    command = [sys.executable, "-c", CODE, str(free_port())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert 'rank="3"' in done.stdout, done.stdout + done.stderr
    assert 'run="seen"' in done.stdout
    assert done.stdout.strip().endswith(" 41.0")
