"""A driver that may be killed: trains the jobs it reads from standard input, on its own Ray cluster or that of
RAY_ADDRESS.

A line is a JSON object {job, result}; how the job ended is written to the file `result`, there whole or not at all.
"""

from __future__ import annotations

import json
import os
import sys

from trainplane.cluster.ray_session import ray_session
from trainplane.config.load import build
from trainplane.task import load_task
from trainplane.train.launch.launch import train
from trainplane.train.spec import NullProgress, TrainJob


class Told(NullProgress):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def emit(self, message: str) -> None:
        self.sentences.append(message)
        print(f"told: {message}", flush=True)


def main() -> None:
    with ray_session(num_cpus=4):
        for line in sys.stdin:
            wish = json.loads(line)
            job, told = TrainJob(**wish["job"]), Told()
            config = build(load_task(job.config["task"]).Config, job.config)
            outcome = train(job, config.train, progress=told, distributed=True)
            ended = {"digest": outcome.state_digest, "step": outcome.step, "told": told.sentences}
            with open(wish["result"] + ".part", "w") as file:
                json.dump(ended, file)
            os.replace(wish["result"] + ".part", wish["result"])


if __name__ == "__main__":
    main()
