"""A rank that is stopped is named, its group is replaced, and the run ends on the bits of an undisturbed one."""

import json
import os
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
STEPS, STALL_S = 40, 10


def job_of(folder, datasets, name):
    train = {"steps": STEPS, "global_batch": 4, "workers": 2, "checkpoint_every": 2, "stall_s": STALL_S}
    moments = folder / f"moments-{name}"
    moments.mkdir()
    tree = {"name": "stall", "moments": str(moments), "pause_s": 0.2, "data": {"train": "t"}, "train": train}
    config = build(KillConfig, tree).model_dump(mode="json")
    job = {"config": config, "train_data": str(datasets / "train"), "val_data": None}
    return moments, {"job": {**job, "checkpoints": str(folder / name)}, "result": str(folder / f"{name}.json")}


def wait_for(condition, process, log, what, timeout_s=400.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, f"{what} did not come\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


@pytest.mark.real
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.nightly)])
def test_a_stopped_rank_is_named_and_replaced_and_the_end_is_the_same(tmp_path, rank):
    datasets, log = noise_datasets.make(tmp_path / "datasets"), tmp_path / "driver.log"
    paths = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with open(log, "wb") as output:
        driver = subprocess.Popen(
            [sys.executable, str(SUPPORT / "kill_driver.py")],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            preexec_fn=die_with_parent,
        )
    try:
        ends, stored = {}, tmp_path / "stopped"
        for name in ("straight", "stopped"):
            moments, wish = job_of(tmp_path, datasets, name)
            if name == "straight":
                (moments / "hurry").touch()
            driver.stdin.write(json.dumps(wish).encode() + b"\n")
            driver.stdin.flush()
            if name == "stopped":
                wait_for(lambda: list(stored.glob("step-*/manifest.json")), driver, log, "a checkpoint")
                pid = int((moments / f"rank-{rank}.pid").read_text())
                os.kill(pid, signal.SIGSTOP)
                stopped_at = time.monotonic()
                wait_for(lambda: "no rank has moved" in log.read_text(), driver, log, "the name of the rank")
                assert time.monotonic() - stopped_at < STALL_S + 15
                (moments / "hurry").touch()
            wait_for(Path(wish["result"]).exists, driver, log, "the end")
            ends[name] = json.loads(Path(wish["result"]).read_text())
    finally:
        driver.kill()
        driver.wait()
    told = "\n".join(ends["stopped"]["told"])
    assert f"the group waits for rank {rank} on " in told
    assert f"(pid {pid})" in told
    assert "which does not answer" in told
    assert f"stack of rank {rank}: {tmp_path / 'stopped'}/stalls/" in told
    assert "a worker was lost (no rank has moved" in told
    assert (ends["stopped"]["step"], ends["stopped"]["digest"]) == (STEPS, ends["straight"]["digest"])
