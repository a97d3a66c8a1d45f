"""Reads checkpoints while storing them fails.

A small network trains; of its checkpoints three in ten are refused, and of its other requests to store three in ten
fail, until a separate reader process (`checkpoint_reader`) has polled often enough.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.bench.checkpoint import bench_job
from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.errors import RunFailed
from trainplane.testing.fault_proxy import FaultProxy
from trainplane.train.loop import run
from trainplane.train.spec import NullProgress

FAILING_EVERY = 2
READER = str(Path(__file__).with_name("checkpoint_reader.py"))
SMALL = ("model.width=4", "model.discriminator_width=8", "train.global_batch=2")


class Failing:
    """Faults of a store that refuses checkpoints and spoils requests.

    It refuses three of ten checkpoints, never two in a row, and spoils three of ten other requests to store.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.refused: set[int] = set()
        self.spoilt = self.requests = 0

    def __call__(self, method: str, path: str, number: int) -> str | None:
        match = re.search(r"/step-(\d+)/", path)
        if method not in ("PUT", "POST") or match is None:
            return None
        step = int(match[1])
        if step // FAILING_EVERY * 7 % 10 < 3:
            self.refused.add(step)
            return "denied"
        self.requests += 1
        if self._rng.random() >= 0.3:
            return None
        self.spoilt += 1
        return self._rng.choice(("500", "503", "reset"))


class StepCounter(NullProgress):
    """Number of steps of a training."""

    steps = 0

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        self.steps += 1


def while_failing(data: str, place: str, endpoint: str, *, polls: int, different: int) -> dict[str, Any]:
    """Trains until a reader has polled and read often enough.

    Returns the counts of both.
    """
    job = bench_job(data, place, *SMALL, "train.steps=1000000", f"train.checkpoint_every={FAILING_EVERY}")
    counter = StepCounter()
    command = [sys.executable, READER, place, str(polls), str(different)]
    with FaultProxy(endpoint) as proxy:
        proxy.fault = failing = Failing(seed=0)
        # The reader goes to the server itself: it shall find what is there.
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent) as reader:
            os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
            try:
                run(job, progress=counter, interrupted=lambda: reader.poll() is not None)
            except (KeyboardInterrupt, RunFailed) as error:
                # Told to stop, it also stores where it stands, which the proxy may refuse.
                if reader.poll() is None:
                    reader.kill()
                    raise RunFailed(f"training ended while its checkpoints failed: {error}") from error
            finally:
                os.environ["AWS_ENDPOINT_URL"] = endpoint
            assert reader.stdout is not None
            counts = json.loads(reader.stdout.read())
    return {
        **counts,
        "steps": counter.steps,
        "refused": len(failing.refused),
        "requests": failing.requests,
        "spoilt": failing.spoilt,
    }
