"""Work in shares on a cluster: what a task asks for, and who does a share whose process is lost."""

import json
import subprocess
import sys

import pytest

from jobs.cluster.worker_pool import capacity_message, resources_per_task, tasks_for


@pytest.mark.parametrize(
    ("cluster", "tasks"),
    [
        ({"CPU": 8.0}, 8),
        ({"CPU": 64.0, "GPU": 4.0}, 8),
        ({"CPU": 0.0, "memory": 1e9}, 1),
        ({}, 1),
    ],
)
def test_a_cluster_is_filled_by_its_gpus_and_else_by_its_processors(cluster, tasks):
    assert tasks_for(cluster) == tasks


@pytest.mark.parametrize(
    ("tasks", "gpus", "each"),
    [(1, 1, 1.0), (2, 1, 0.5), (3, 2, 0.5), (2, 4, 1.0), (7, 2, 0.25), (16, 8, 0.5)],
)
def test_tasks_share_gpus_and_none_spans_two(tasks, gpus, each):
    needs = resources_per_task(tasks, {"CPU": 32.0, "GPU": float(gpus)})
    assert needs == {"CPU": 1.0, "GPU": each}
    # All of them have room at once, each on one GPU.
    assert tasks <= gpus * int(1 / each)


def test_where_there_is_no_gpu_none_is_asked_for():
    assert resources_per_task(3, {"CPU": 4.0}) == {"CPU": 1.0}


def test_a_busy_cluster_is_said_so():
    needs = {"CPU": 1.0, "GPU": 0.5}
    assert capacity_message(needs, {"CPU": 1.0, "GPU": 0.5}) is None
    assert capacity_message(needs, {"CPU": 8.0}) == "waits until the cluster has 0.5 GPU (0 free) for a task"
    assert capacity_message(needs, {"CPU": 0.0, "GPU": 0.25}) == (
        "waits until the cluster has 1 CPU (0 free) and 0.5 GPU (0.25 free) for a task"
    )


# Ray takes our word for the GPU, so who gets which can be seen without one.
_PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from jobs.cluster.worker_pool import run_shares
from trainplane.cluster.ray_session import ray_variables
from trainplane.environ import with_variables
from trainplane.errors import RunFailed

def work(held, share):
    import ray
    notes, losses = Path(held[0]), held[1]
    with (notes / f"share-{share}").open("a") as file:
        file.write("begun\\n")
    if share == 3 and len((notes / "share-3").read_text().splitlines()) <= losses:
        os.kill(os.getpid(), signal.SIGKILL)
    assigned = ray.get_runtime_context().get_assigned_resources()
    return share, os.getpid(), assigned.get("GPU"), os.environ.get("CUDA_VISIBLE_DEVICES")

def told(folder, losses):
    folder.mkdir()
    try:
        found = list(run_shares(work, (str(folder), losses), list(range(6)), tasks=2))
    except RunFailed as error:
        found = str(error)
    (folder / "told").write_text(json.dumps(found))

with with_variables(ray_variables(in_job=False)):
    import ray
    ray.init(address="local", num_cpus=4, num_gpus=1, dashboard_host="127.0.0.1", _node_ip_address="127.0.0.1",
             log_to_driver=False, logging_level="ERROR")
    told(Path(sys.argv[1], "twice"), 2)
    told(Path(sys.argv[1], "always"), 100)
    ray.shutdown()
"""


@pytest.mark.nightly
def test_a_share_whose_process_is_lost_is_done_by_another_until_it_has_lost_four(tmp_path):
    done = subprocess.run([sys.executable, "-c", _PROGRAM, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    twice, always = tmp_path / "twice", tmp_path / "always"
    found = json.loads((twice / "told").read_text())
    assert sorted(share for share, *_ in found) == list(range(6))
    assert [_begun(twice, share) for share in range(6)] == [1, 1, 1, 3, 1, 1]
    # Each has its half of the one GPU, and a process is kept for more than one share.
    assert {(gpu, visible) for _, _, gpu, visible in found} == {(0.5, "0")}
    assert len({pid for _, pid, _, _ in found}) < 6
    sentence = json.loads((always / "told").read_text())
    assert isinstance(sentence, str), sentence
    assert sentence.startswith("4 processes in a row were lost at the same work")
    assert _begun(always, 3) == 4


def _begun(folder, share):
    return (folder / f"share-{share}").read_text().count("begun")
