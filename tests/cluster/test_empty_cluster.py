"""A cluster whose nodes come by themselves: a run and a search start from none, and say what they wait for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from autoscaling_cluster import autoscaling_cluster
from noise_datasets import make
from small_run import SMALL

pytestmark = pytest.mark.nightly

ELASTIC = [word for word in SMALL if not word.startswith("train.workers")]


def isnet(folder: Path, address: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *words],
        cwd=folder,
        env={**os.environ, "RAY_ADDRESS": address, **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize("workers", ["2", "[1,2]"])
def test_a_run_starts_from_no_nodes(project: Any, tmp_path: Path, workers: str) -> None:
    with autoscaling_cluster(tmp_path, node={"CPU": 1}, max_nodes=2) as address:
        words = ["train", "demo", *ELASTIC, f"train.workers={workers}", "--fresh", "--json"]
        ran = isnet(project.folder, address, *words)
    assert ran.returncode == 0, ran.stderr
    assert "waiting up to 15 min for nodes: " in ran.stderr
    assert (json.loads(ran.stdout)["status"], json.loads(ran.stdout)["step"]) == ("finished", 4)


def test_a_search_starts_from_no_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The task's module, for the command and for the nodes.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "support"))
    make(tmp_path / "data")
    train = {"steps": 3, "global_batch": 4, "workers": 1, "checkpoint_every": 3, "validate_every": 1, "lr_g": 0.01}
    base = {
        "name": "tiny",
        "task": "nan_task:NanTask",
        "data": {"train": str(tmp_path / "data/train"), "val": str(tmp_path / "data/val"), "val_samples": 5},
        "train": train,
        "tracking": {"experiment": "tiny", "gallery": 0},
    }
    space = {"trouble.number": {"choice": [0, 1]}}
    search = {"algorithm": "grid", "objective": {"metric": "val/rank", "mode": "min"}, "space": space, "concurrent": 2}
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    (tmp_path / "search.yaml").write_text(
        yaml.safe_dump({"name": "tiny-search", "base": str(tmp_path / "base.yaml"), "search": search})
    )
    with autoscaling_cluster(tmp_path, node={"CPU": 1}, max_nodes=2) as address:
        ran = isnet(tmp_path, address, "tune", "search.yaml", "--json", ISNET_HOME=str(tmp_path / "home"))
    assert ran.returncode == 0, ran.stderr
    assert "waiting up to 15 min for nodes: one trial needs" in ran.stderr
    assert [trial["step"] for trial in json.loads(ran.stdout)["trials"]] == [3, 3]


def test_nodes_that_do_not_come_in_time_are_a_refusal_with_the_arithmetic(project: Any, tmp_path: Path) -> None:
    with autoscaling_cluster(tmp_path, node={"CPU": 1}, max_nodes=0) as address:
        words = ["train", "demo", *ELASTIC, "train.workers=2", "--fresh", "train.wait_for_nodes=5"]
        ran = isnet(project.folder, address, *words)
    assert ran.returncode == 2
    assert "need 2 CPUs and the cluster has 0; add nodes" in ran.stderr
