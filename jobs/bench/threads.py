"""`isnet bench threads`: two threads against one, under load.

    default    `isnet train` as it is: threads sleep while they wait (trainplane/passive_waiting.py)
    one        the same with train.threads=1
    spinning   as the default, but threads spin while they wait, as OpenMP's do by themselves

Other processes keep the cores busy meanwhile. Every run starts from the beginning in a process of its own, because the
runtime reads its settings once. `default` and `spinning` must end on the same weights.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jobs.bench.common import figure, median_quotient, report, results_in_turns
from jobs.bench.overhead import PICTURES, pictures
from trainplane.cluster.context import local
from trainplane.data.pack.pack import pack
from trainplane.errors import RunFailed
from trainplane.passive_waiting import NAMES

TARGET = 0.8
ONE_THREAD = "train.threads=1"


@dataclass(frozen=True)
class ThreadedRun:
    """Speed and final weights of one run."""

    pictures_per_s: float
    state_digest: str


def threads(args: argparse.Namespace) -> int:
    """`isnet bench threads`."""
    with tempfile.TemporaryDirectory(prefix="isnet-bench-") as folder, busy(args.load):
        context = local(Path(folder))
        pack(pictures(PICTURES), context.dataset("bench"), name="bench", split="train", how={})
        # One run without validation, and with its only checkpoint at the end.
        settings = [
            *("data.train=bench", "data.val=null", "train.workers=1", "train.use_gpu=false"),
            *(f"train.steps={args.steps}", f"train.checkpoint_every={args.steps}", *args.overrides),
        ]
        train = partial(_train, Path(folder), args.preset)
        ways = {
            "default": partial(train, settings, {}),
            "one": partial(train, [*settings, ONE_THREAD], {}),
            "spinning": partial(train, settings, {"OMP_WAIT_POLICY": "ACTIVE"}),
        }
        runs = results_in_turns(ways, rounds=args.rounds, warmup=0)
    rates = {name: [run.pictures_per_s for run in results] for name, results in runs.items()}
    same_bits = len({run.state_digest for name in ("default", "spinning") for run in runs[name]}) == 1
    figures = [
        figure(f"default to {ONE_THREAD}", median_quotient(rates["default"], rates["one"]), "×", f"≥ {TARGET}"),
        figure(f"spinning to {ONE_THREAD}", median_quotient(rates["spinning"], rates["one"]), "×"),
        *(figure(f"pictures/s, {name}", statistics.median(values), "1/s") for name, values in rates.items()),
        figure("same weights, sleeping and spinning", float(same_bits), "", met=same_bits),
    ]
    rounded = {name: [round(rate, 2) for rate in values] for name, values in rates.items()}
    return report(args, figures, load=args.load, steps=args.steps, pictures_per_s=rounded)


@contextmanager
def busy(count: int) -> Iterator[None]:
    """Keeps `count` processes computing during the block."""
    # Each ends with this process, however that ends: its standard input is then closed.
    program = "import sys, threading, os; threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0))).start()\n"
    program += "while True: pass"
    processes = [subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
        for process in processes:
            process.communicate()


def _train(home: Path, preset: str, settings: Sequence[str], variables: Mapping[str, str]) -> ThreadedRun:
    """Trains a new run in a process of its own."""
    # What this process was started with must not decide: neither how threads wait nor how many there are.
    inherited = {name: value for name, value in os.environ.items() if name not in (*NAMES, "OMP_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "train", preset, *settings, "--fresh", "--json"],
        env={**inherited, **variables, "ISNET_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunFailed(f"a run ended with status {done.returncode}: {done.stderr.strip().splitlines()[-1]}")
    outcome = json.loads(done.stdout)
    return ThreadedRun(outcome["pictures_per_s"], outcome["state_digest"])
