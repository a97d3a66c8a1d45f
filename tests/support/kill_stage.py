"""What the kill matrix is played on: an S3 server, a proxy before it, a driver with two workers, and who is killed."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
from kill_task import KillConfig
from moments import Moments

from trainplane.cluster.ports import free_port
from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.config.load import build

SUPPORT = Path(__file__).parent
TARGETS = ("worker 0", "worker 1", "controller", "driver", "proxy")
STEPS, EVERY = 12, 3
# On a busy machine Ray takes minutes to start two workers.
START_S = END_S = 600.0


def _may_train(process: psutil.Process) -> bool:
    """Whether it is one of those that run the training or start them again; what is gone already is not."""
    try:
        words = f"{process.name()} {' '.join(process.cmdline())}"
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return False
    return any(name in words for name in ("RayTrainWorker", "TrainController", "raylet/raylet", "gcs_server"))


def _end(processes: Sequence[psutil.Process | subprocess.Popen[bytes]]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


class Stage:
    """One driver and one proxy at a time, both replaced when they are killed."""

    def __init__(self, folder: Path, datasets: Path, endpoint: str, bucket: str) -> None:
        self.moments = Moments(folder / "moments")
        self.moments.folder.mkdir()
        self.kills = self.runs = self.equal = 0
        self._folder, self._datasets, self._endpoint, self._bucket = folder, datasets, endpoint, bucket
        self._port = free_port()
        self._proxy = self._start_proxy()
        self._driver = self._start_driver()
        self.straight = self._finish(self._begin("straight"))["digest"]

    def play(self, target: str, moment: str, steps: Sequence[int]) -> dict[str, Any]:
        """Kill `target` at this moment of the checkpoints of these steps, in one run; how the run ended after that."""
        self.runs += 1
        try:
            ended = self._play(target, moment, steps)
        except BaseException:
            # The next run gets a driver that is not still at this one, whatever became of it.
            _end([*self._family(), self._driver])
            self._driver.wait()
            self._driver = self._start_driver()
            raise
        self.equal += ended["digest"] == self.straight
        return ended

    def _play(self, target: str, moment: str, steps: Sequence[int]) -> dict[str, Any]:
        self.moments.clear()
        self.moments.arm(moment, steps[0])
        name = f"run-{self.runs}"
        result = self._begin(name)
        for step, following in itertools.zip_longest(steps, steps[1:]):
            self._wait(
                functools.partial(self.moments.is_reached, moment, step),
                START_S,
                f"{moment} of step {step} did not come",
            )
            if following:
                self.moments.arm(moment, following)
            self._kill(target)
            self.moments.let_go(moment, step)
            if target == "driver":
                # The same command again, as whoever finds the run dead does.
                self._driver = self._start_driver()
                result = self._begin(name)
            self.kills += 1
        return self._finish(result)

    def close(self) -> None:
        # Its cluster ends with it: a polite end takes seconds that nobody needs.
        _end([*self._family(), self._driver, self._proxy])
        self._driver.wait()
        self._proxy.wait()

    def _kill(self, target: str) -> None:
        if target == "proxy":
            self._proxy.kill()
            self._proxy.wait()
            self._proxy = self._start_proxy()
        elif target == "driver":
            family = self._family()
            training = [process for process in family if _may_train(process)]
            assert training, "the driver had no cluster"
            self._driver.kill()
            self._driver.wait()
            # Nothing that trains outlives it, or two would train the same run.
            left = psutil.wait_procs(training, timeout=END_S)[1]
            assert not left, f"outlived the driver: {left}"
            # Ray's agents, which only watch and serve, take minutes to notice that their node is gone.
            _end(family)
        else:
            ranks = self._ranks()
            doomed = self._controller() if target == "controller" else ranks[int(target.split()[1])].pid
            os.kill(doomed, signal.SIGKILL)
            # Ray ends the other ranks. Until then they go on, and would come to the next moment with nobody to kill.
            left = psutil.wait_procs(ranks, timeout=END_S)[1]
            assert not left, f"outlived {target}: {left}"

    def _family(self) -> list[psutil.Process]:
        """What the driver started."""
        return psutil.Process(self._driver.pid).children(recursive=True) if self._driver.poll() is None else []

    def _rank(self, rank: int) -> int:
        return int((self.moments.folder / f"rank-{rank}.pid").read_text())

    def _ranks(self) -> list[psutil.Process]:
        return [psutil.Process(self._rank(rank)) for rank in range(2)]

    def _controller(self) -> int:
        found = []
        for process in self._family():
            try:
                if "TrainController" in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        # Of an earlier run one may be on its way out.
        return int(max(found, key=lambda process: process.create_time()).pid)

    def _begin(self, name: str) -> Path:
        train = {"steps": STEPS, "global_batch": 4, "workers": 2, "checkpoint_every": EVERY, "validate_every": STEPS}
        config = build(
            KillConfig,
            {
                "name": "kill",
                "moments": str(self.moments.folder),
                "data": {"train": "t"},
                "train": {**train, "log_every": 2},
            },
        )
        job = {
            "config": config.model_dump(mode="json"),
            "train_data": str(self._datasets / "train"),
            "val_data": None,
            "checkpoints": f"{self._bucket}/{name}",
        }
        result = self._folder / f"{name}.json"
        self._driver.stdin.write(json.dumps({"job": job, "result": str(result)}).encode() + b"\n")
        self._driver.stdin.flush()
        return result

    def _finish(self, result: Path) -> dict[str, Any]:
        self._wait(result.exists, END_S, "the run did not end")
        return dict(json.loads(result.read_text()))

    def _wait(self, condition: Any, timeout_s: float, otherwise: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert self._driver.poll() is None, (self._folder / "driver.log").read_text()[-4000:]
            assert time.monotonic() < deadline, otherwise + "\n" + (self._folder / "driver.log").read_text()[-4000:]
            time.sleep(0.05)

    def _start_driver(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._port}",
            "PYTHONPATH": os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "OMP_NUM_THREADS": "1",
            # Ray's workers stand back otherwise, and on a busy machine their start is most of the time.
            "RAY_worker_niceness": "0",
        }
        with open(self._folder / "driver.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, str(SUPPORT / "kill_driver.py")],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )

    def _start_proxy(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(SUPPORT / "kill_proxy.py"), self._endpoint, str(self._port)]
        return subprocess.Popen([*command, str(self.moments.folder)], preexec_fn=die_with_parent)
