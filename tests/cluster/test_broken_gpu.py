"""A run whose GPU fails goes to other nodes of the cluster, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import noise_datasets
import pytest
from broken_gpu_task import BrokenGpuConfig

from trainplane.cluster.ports import free_port
from trainplane.config.load import build
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob

SUPPORT = Path(__file__).parents[1] / "support"


@pytest.mark.nightly
def test_a_node_whose_gpu_failed_gets_no_ranks_while_others_have_room(tmp_path, monkeypatch):
    from ray.cluster_utils import Cluster

    datasets = noise_datasets.make(tmp_path / "datasets")
    train = {"steps": 8, "global_batch": 4, "workers": 2, "checkpoint_every": 1}
    tree = {"name": "broken", "broken": str(tmp_path / "broken"), "data": {"train": "t"}, "train": train}
    job = {
        "config": build(BrokenGpuConfig, tree).model_dump(mode="json"),
        "train_data": str(datasets / "train"),
        "val_data": None,
        "checkpoints": str(tmp_path / "run"),
    }
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    before = signal.getsignal(signal.SIGTERM)
    # Three nodes of one rank each.
    head = {"num_cpus": 1, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": free_port()}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        paths = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
        done = subprocess.run(
            [sys.executable, str(SUPPORT / "kill_driver.py")],
            env={**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            input=json.dumps({"job": job, "result": str(tmp_path / "result.json")}),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    finally:
        cluster.shutdown()
        # Its nodes take SIGTERM for themselves.
        signal.signal(signal.SIGTERM, before)
    log = done.stdout + done.stderr
    assert (tmp_path / "result.json").exists(), log
    assert log.count("a node's GPU failed (a GPU or its driver failed (rank 0 on ") == 1, log
    assert "CUDA error: uncorrectable ECC error encountered" in log
    straight = build(BrokenGpuConfig, {**tree, "task": "tiny_task:TinyTask"}).model_dump(
        mode="json", exclude={"broken"}
    )
    undisturbed = run(TrainJob(straight, job["train_data"], None, str(tmp_path / "straight")))
    assert undisturbed.step == json.loads((tmp_path / "result.json").read_text())["step"]
