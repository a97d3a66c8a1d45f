"""A rank that is stopped is named, its group is replaced, and the run ends on the bits of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import noise_datasets
import pytest
from kill_task import KillConfig
from stop_task import StopConfig

from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.config.load import build

SUPPORT = Path(__file__).parents[1] / "support"
STEPS, STALL_S = 40, 10
PHASES = ("data", "step", "sum", "checkpoint")


def job_of(folder, datasets, name, *, kind=KillConfig, **settings):
    train = {"steps": STEPS, "global_batch": 4, "workers": 2, "checkpoint_every": 2, "stall_s": STALL_S}
    moments = folder / f"moments-{name}"
    moments.mkdir()
    tree = {"name": "stall", "moments": str(moments), "data": {"train": "t"}, "train": train, **settings}
    config = build(kind, tree).model_dump(mode="json")
    job = {"config": config, "train_data": str(datasets / "train"), "val_data": None}
    return moments, {"job": {**job, "checkpoints": str(folder / name)}, "result": str(folder / f"{name}.json")}


def wait_for(condition, process, log, what, timeout_s=400.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < deadline, f"{what} did not come\n{log.read_text()[-4000:]}"
        time.sleep(0.1)


@contextmanager
def driver_of(log):
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
        yield driver
    finally:
        driver.kill()
        driver.wait()


def ask(driver, wish):
    driver.stdin.write(json.dumps(wish).encode() + b"\n")
    driver.stdin.flush()


@pytest.mark.nightly
def test_a_rank_that_stops_in_any_phase_is_named_in_time_and_the_end_is_the_same(tmp_path):
    datasets, log = noise_datasets.make(tmp_path / "datasets"), tmp_path / "driver.log"
    cases = [("straight", ""), *((f"{phase}-{rank}", f"{rank} {phase} 5") for phase in PHASES for rank in (0, 1))]
    ends, late = {}, {}
    with driver_of(log) as driver:
        for name, stop in cases:
            moments, wish = job_of(tmp_path, datasets, name, kind=StopConfig, stop=stop)
            ask(driver, wish)
            if stop:
                wait_for((moments / "stopped").exists, driver, log, f"the stop in {name}")
                pid, since = (moments / "stopped").read_text().split()
                words = f"(pid {pid}) in step "
                wait_for(lambda words=words: words in log.read_text(), driver, log, f"the name of {name}")
                late[name] = time.time() - float(since) - STALL_S
                named = next(line for line in log.read_text().splitlines() if words in line).partition(words)[2]
                print(f"{name}: named {late[name]:.1f} s after stall_s, in step {named}", flush=True)
            wait_for(Path(wish["result"]).exists, driver, log, f"the end of {name}")
            ends[name] = json.loads(Path(wish["result"]).read_text())
            # A rank's last pulse may be lost with it, so the phase may be the one before.
            told = [line for line in ends[name]["told"] if line.startswith("no rank has moved")]
            assert len(told) == bool(stop), told
            assert not stop or f"the group waits for rank {stop.split()[0]} on " in told[0]
    assert {end["digest"] for end in ends.values()} == {ends["straight"]["digest"]}
    assert max(late.values()) < 15, late


@pytest.mark.real
@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.nightly)])
def test_a_stopped_rank_is_named_and_replaced_and_the_end_is_the_same(tmp_path, rank):
    datasets, log = noise_datasets.make(tmp_path / "datasets"), tmp_path / "driver.log"
    with driver_of(log) as driver:
        ends, stored = {}, tmp_path / "stopped"
        for name in ("straight", "stopped"):
            moments, wish = job_of(tmp_path, datasets, name, pause_s=0.2)
            if name == "straight":
                (moments / "hurry").touch()
            ask(driver, wish)
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
    told = "\n".join(ends["stopped"]["told"])
    assert f"the group waits for rank {rank} on " in told
    assert f"(pid {pid})" in told
    assert "which does not answer" in told
    assert f"stack of rank {rank}: {tmp_path / 'stopped'}/stalls/" in told
    assert "a worker was lost (no rank has moved" in told
    assert (ends["stopped"]["step"], ends["stopped"]["digest"]) == (STEPS, ends["straight"]["digest"])
