"""Nodes come and go under an elastic run: it grows onto a new one, and saves inside the notice of one that leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import noise_datasets
import pytest
from kill_task import KillConfig

from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.config.load import build

SUPPORT = Path(__file__).parents[1] / "support"
STEPS, NOTICE_S = 2000, 300
# On a busy machine Ray takes minutes to start workers.
PATIENCE_S = 600.0


class Driver:
    """An elastic run of one or two workers in a process of its own, on the cluster at `address`."""

    def __init__(self, folder, datasets, address):
        self.moments = folder / "moments"
        self.moments.mkdir()
        self._log, self._result = folder / "driver.log", folder / "result.json"
        environment = {
            **os.environ,
            "RAY_ADDRESS": address,
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": "1",
        }
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SUPPORT / "kill_driver.py")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        train = {"steps": STEPS, "global_batch": 4, "workers": [1, 2], "resize_every_s": 1, "checkpoint_every": STEPS}
        tree = {"name": "kill", "moments": str(self.moments), "pause_s": 0.1, "data": {"train": "t"}, "train": train}
        job = {
            "config": build(KillConfig, tree).model_dump(mode="json"),
            "train_data": str(datasets / "train"),
            "val_data": None,
            "checkpoints": str(folder / "run"),
        }
        self.process.stdin.write(json.dumps({"job": job, "result": str(self._result)}).encode() + b"\n")
        self.process.stdin.flush()

    def told(self):
        return re.findall(r"told: (.*)", self._log.read_text())

    def wait(self, words, times=1):
        """Until a sentence with these words was told so often."""
        self._wait(lambda: sum(words in sentence for sentence in self.told()) >= times, words)

    def wait_for_a_rank(self, rank):
        """Until that rank of the group that is starting has begun."""
        self._wait((self.moments / f"rank-{rank}.pid").exists, f"rank {rank}")

    def end(self):
        (self.moments / "hurry").touch()
        self._wait(self._result.exists, "the end")
        return json.loads(self._result.read_text())

    def _wait(self, condition, what):
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self._log.read_text()[-4000:]
            assert time.monotonic() < deadline, f"{what} did not come\n{self._log.read_text()[-4000:]}"
            time.sleep(0.1)


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": True, "dashboard_host": "127.0.0.1"},
    )
    yield started
    started.shutdown()
    # Its nodes take SIGTERM for themselves.
    signal.signal(signal.SIGTERM, before)


@pytest.mark.nightly
def test_a_run_grows_onto_a_new_node_and_saves_before_it_goes_again(tmp_path, cluster):
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    driver = Driver(tmp_path, noise_datasets.make(tmp_path / "datasets"), cluster.address)
    try:
        driver.wait("room for 1 of 1 to 2 workers")
        driver.wait_for_a_rank(0)
        node = cluster.add_node(num_cpus=1)
        driver.wait("there is room for more workers; resuming at step")
        driver.wait("room for 2 of 1 to 2 workers")
        driver.wait_for_a_rank(1)
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        deadline_ms = int((time.time() + NOTICE_S) * 1000)
        taken, why = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "a spot instance", deadline_ms)
        assert taken, why
        driver.wait("the node was about to shut down; resuming at step")
        # It counts as alive until it is gone, and Ray would place nothing there.
        driver.wait("room for 1 of 1 to 2 workers", times=2)
        ended = driver.end()
    finally:
        driver.process.kill()
        driver.process.wait()
    assert ended["step"] == STEPS
    # No checkpoint was due: each of these steps was saved because somebody asked.
    saved = [int(step) for step in re.findall(r"resuming at step (\d+)", "\n".join(ended["told"]))]
    assert len(saved) == 2
    assert 0 < saved[0] < saved[1] < STEPS
