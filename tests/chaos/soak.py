"""Trains small runs under seeded faults: `python tests/chaos/soak.py`.

An S3 server behind a proxy that spoils requests and goes away for seconds, an MLflow server behind one that makes it
slow, failing or absent, and SIGKILL to the whole process group of a run. With `--workers` of 2 or more a rank gets
SIGSTOP, too, and has to be replaced. After each run its promises are checked: that it ends on the same bits as an
undisturbed one, that every recorded step is in MLflow once, that nothing is left in the spool, that the dataset is
valid, that no rank was said to stand still but those that were stopped. Not covered: several hosts
(tests/cluster/test_hosts.py), wrong bytes that a store has stored.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from jobs.bench.common import Figure, figure, machine, slope, smooth_photos
from trainplane.cluster.stack.moto_server import local_s3
from trainplane.errors import RunFailed, UserError
from trainplane.storage import ensure_bucket
from trainplane.testing.fault_proxy import OUTAGES, FaultProxy, no_fault, seeded_faults
from trainplane.testing.mlflow_server import StateProxy, mlflow_server
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.run_record import RunRecord

_SETTINGS = (
    "train.global_batch=4",
    "train.checkpoint_every=4",
    "train.log_every=2",
    "data.size=32",
    "data.resize=48",
    "data.train=soak",
    "data.val=soak",
    "tracking.gallery=0",
    "model.width=4",
)
# This much happens in the time of an undisturbed run; one in five is a kill, so that most attempts get ahead.
_EVENTS_A_RUN = 4
_MOST_ATTEMPTS = 40
_MILD_EVENTS = 5
_FAULT_RATES = (0.0, 0.05, 0.2)
_FAULTS_OF_AN_HOUR = 500
# Below the longest outage of the store, whose waits are no stalls.
_STALL_S = 20
# What a run of several ranks says of one that stands still, and that any rank has done a step.
_STALLED = re.compile(r"the group waits for rank \d+ on \S+ \(pid (\d+)\)")
_TRAINED = re.compile(r"step \d+/")


@dataclass
class Tally:
    """Counts of faults and attempts, and broken promises."""

    happened: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    peak_mib: list[float] = field(default_factory=list)
    runs: int = 0
    attempts: int = 0
    stalls: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a report; returns 1 where a promise broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="default 60")
    parser.add_argument("--seed", type=int, default=0, help="of what fails when, default 0")
    parser.add_argument("--workers", type=int, default=1, help="ranks of a run, default 1")
    parser.add_argument("--steps", type=int, default=24, help="of a run, default 24")
    args = parser.parse_args(argv)
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="isnet-soak-") as name, _surroundings(Path(name)) as world:
        world.isnet("data", "pack", str(smooth_photos(Path(name))), "soak", "--parallel", "0")
        start = time.monotonic()
        world.settings = (
            *_SETTINGS,
            f"train.steps={args.steps}",
            f"train.validate_every={args.steps}",
            f"train.workers={args.workers}",
            f"train.stall_s={_STALL_S}",
        )
        calm = json.loads(world.isnet("train", "demo", *world.settings, "tracking.experiment=calm", "--json"))
        due = _recorded_steps(TrackingServer(world.tracking.address), calm["run_id"])
        pause_s = (time.monotonic() - start) / _EVENTS_A_RUN
        clock = Clock(world, tally, args.seed, pause_s=pause_s, stops=args.workers > 1)
        deadline = time.monotonic() + 60 * args.minutes
        while time.monotonic() < deadline:
            run_id = _one_run(world, clock, tally, calm["state_digest"])
            clock.calm()
            _check_promises(world, tally, run_id, due)
            print(f"soak: {tally.runs} runs, {_faults(world, tally)} faults, broken: {tally.broken}", file=sys.stderr)
        spoilt = dict(sorted(world.store.faults.items()))
        faults = _faults(world, tally)
    report = {
        "machine": machine(),
        "minutes": args.minutes,
        "seed": args.seed,
        "workers": args.workers,
        "steps": args.steps,
        "load": os.getloadavg()[2],
        "faults": {"store": spoilt, **dict(sorted(tally.happened.items()))},
        "broken": tally.broken,
        "figures": figures(tally, faults, args.minutes),
    }
    print(json.dumps(report, ensure_ascii=False, indent=1))
    return 1 if tally.broken else 0


def figures(tally: Tally, faults: int, minutes: float) -> list[Figure]:
    """Figures of a soak, with the targets of an hour."""
    growth = round(slope(tally.peak_mib), 2)
    return [
        figure("faults", faults, "faults", _FAULTS_OF_AN_HOUR, met=faults >= _FAULTS_OF_AN_HOUR),
        figure("broken promises", len(tally.broken), "promises", 0, met=not tally.broken),
        figure("stalls that were told", tally.stalls, "stalls"),
        figure("peak memory of a run, growth", growth, "MiB/run", 1.0, met=growth < 1.0),
        figure("peak memory of a run, median", _median(tally.peak_mib), "MiB"),
        figure("runs that ended", tally.runs, "runs"),
        figure("attempts that they took", tally.attempts, "attempts"),
        figure("time", minutes, "min", 60, met=minutes >= 60),
    ]


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 1) if values else None


def _faults(world: World, tally: Tally) -> int:
    return sum(world.store.faults.values()) + sum(tally.happened.values())


@dataclass
class World:
    """Folder with a context, and the proxies of its servers."""

    folder: Path
    store: FaultProxy
    tracking: StateProxy
    experiment: str = ""
    settings: tuple[str, ...] = ()

    def begin(self, name: str) -> None:
        """Sets another folder of checkpoints and another experiment.

        The next run is then a new one, on the same data.
        """
        self.experiment = name
        (self.folder / "isnet.toml").write_text(
            f'default = "soak"\n[context.soak]\nstore = "s3://soak"\ncheckpoints = "s3://soak/{name}"\n'
            f's3_endpoint = "{self.store.endpoint}"\ntracking = "{self.tracking.address}"\n',
            encoding="utf-8",
        )

    def environment(self) -> dict[str, str]:
        return {**os.environ, "ISNET_HOME": str(self.folder / "home")}

    def isnet(self, *args: str) -> str:
        """Runs a command without faults; returns its standard output."""
        command = [sys.executable, "-m", "jobs.cli", *args]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise RunFailed(f"isnet {' '.join(args)} ended with {done.returncode}: {done.stderr[-800:]}")
        return done.stdout


@contextmanager
def _surroundings(folder: Path) -> Iterator[World]:
    with local_s3() as variables, mlflow_server(folder) as port:
        os.environ.update(variables)
        ensure_bucket("s3://soak")
        with FaultProxy(variables["AWS_ENDPOINT_URL"], stall_s=5.0) as store:
            tracking = StateProxy(port)
            world = World(folder, store, tracking)
            world.begin("calm")
            try:
                yield world
            finally:
                tracking.close()


class Clock:
    """Starts and ends faults at seeded moments."""

    def __init__(self, world: World, tally: Tally, seed: int, *, pause_s: float, stops: bool = False) -> None:
        self._world, self._tally, self._pause_s = world, tally, pause_s
        self._chance = random.Random(seed)
        self._seed = seed
        mild, hard = ("store", "store", "away", "tracking", "tracking"), ("kill",)
        # Several ranks need long to start, so more happens between two kills.
        if stops:
            mild, hard, self._pause_s = mild * _MILD_EVENTS, ("kill", "stop"), pause_s / _MILD_EVENTS
        self._kinds = (*mild, *hard)
        self.stopped: set[int] = set()

    def calm(self) -> None:
        self._world.store.wait_until_back()
        self._world.store.fault = no_fault
        self._world.tracking.set_state("healthy")

    def until_over(self, process: subprocess.Popen[str]) -> bool:
        """Lets faults happen until the process ends, or kills it."""
        while True:
            pause_s = self._chance.expovariate(1 / self._pause_s)
            try:
                process.wait(timeout=pause_s)
                return False
            except subprocess.TimeoutExpired:
                pass
            kind = self._chance.choice(self._kinds)
            if kind == "stop":
                self._stop_rank(process.pid)
            elif kind == "away":
                self._world.store.go_away(self._chance.choice(sorted(OUTAGES)), self._chance.uniform(1.0, 30.0))
                self._tally.happened["store away"] += 1
            elif kind == "store":
                rate, self._seed = self._chance.choice(_FAULT_RATES), self._seed + 1
                self._world.store.fault = seeded_faults(rate, seed=self._seed) if rate else no_fault
            elif kind == "tracking":
                state = self._chance.choice(("slow", "failing", "down", "healthy"))
                self._world.tracking.set_state(state)  # type: ignore[arg-type]
                self._tally.happened[f"MLflow {state}"] += state != "healthy"
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                self._tally.happened["SIGKILL"] += 1
                return True

    def _stop_rank(self, driver: int) -> None:
        # Before its first step a group has half an hour.
        ranks = [rank.pid for rank in _ranks(driver) if rank.pid not in self.stopped]
        if ranks and _TRAINED.search((self._world.folder / "attempt.log").read_text(encoding="utf-8")):
            pid = self._chance.choice(ranks)
            os.kill(pid, signal.SIGSTOP)
            self.stopped.add(pid)
            self._tally.happened["SIGSTOP"] += 1


def _ranks(driver: int) -> list[psutil.Process]:
    """Processes of a run's ranks."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _one_run(world: World, clock: Clock, tally: Tally, expected: str) -> str | None:
    """Repeats a run until it ends; returns its id."""
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "train",
        "demo",
        *world.settings,
        f"tracking.experiment={world.experiment}",
        "--json",
    ]
    world.begin(f"round-{tally.runs}-{len(tally.broken)}")
    for _ in range(_MOST_ATTEMPTS):
        log = world.folder / "attempt.log"
        with open(log, "w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                command,
                cwd=world.folder,
                env=world.environment(),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        peak, done = _Peak(process.pid), threading.Event()
        watcher = threading.Thread(target=peak.watch, args=(done,), daemon=True)
        watcher.start()
        was_killed = clock.until_over(process)
        done.set()
        watcher.join()
        tally.attempts += 1
        text = log.read_text(encoding="utf-8")
        told = {int(pid) for pid in _STALLED.findall(text)}
        tally.stalls += len(told)
        if false := told - clock.stopped:
            tally.broken.append(f"processes {sorted(false)} were said to stand still: {text[-600:]}")
        out = process.stdout.read() if process.stdout else ""
        if not was_killed and process.returncode == 0:
            report = json.loads(out)
            tally.runs += 1
            tally.peak_mib.append(round(peak.bytes / 2**20, 1))
            if report["state_digest"] != expected:
                tally.broken.append(f"run {report['run_id']} ended on other bits than an undisturbed one")
            return str(report["run_id"])
        if "Traceback" in text:
            tally.broken.append(f"an attempt ended with a traceback: {text[-600:]}")
    tally.broken.append(f"a run did not end within {_MOST_ATTEMPTS} attempts: {text[-600:]}")
    return None


class _Peak:
    """Highest resident memory of a process, by polling."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.bytes = 0

    def watch(self, done: threading.Event) -> None:
        while not done.wait(0.2):
            try:
                self.bytes = max(self.bytes, self._process.memory_info().rss)
            except psutil.Error:
                return


def _check_promises(world: World, tally: Tally, run_id: str | None, due: list[int]) -> None:
    """Checks a run's promises, without faults.

    `due` are the steps that an undisturbed run records.
    """
    try:
        world.isnet("runs", "sync")
    except RunFailed as error:
        tally.broken.append(f"something stayed in the spool: {error}")
    try:
        world.isnet("data", "verify", "soak")
    except RunFailed as error:
        tally.broken.append(f"the dataset is damaged: {error}")
    if run_id is not None:
        tally.broken.extend(_record_complaints(world, run_id, due))


def _record_complaints(world: World, run_id: str, due: list[int]) -> Iterator[str]:
    server = TrackingServer(world.tracking.address)
    try:
        run = RunRecord(server, run_id).run
    except UserError as error:
        yield f"run {run_id} did not reach MLflow: {error}"
        return
    if run.info.status != "FINISHED":
        yield f"run {run_id} is {run.info.status} in MLflow"
    steps = _recorded_steps(server, run.info.run_id)
    if steps != due:
        yield f"run {run_id} has train/generator at steps {steps}, not each of {due} once"


def _recorded_steps(server: TrackingServer, run_id: str) -> list[int]:
    history = server.client.get_metric_history(run_id, "train/generator")
    return sorted(point.step for point in history)


if __name__ == "__main__":
    sys.exit(main())
