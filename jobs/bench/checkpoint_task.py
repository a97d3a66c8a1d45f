"""What `isnet bench checkpoint` trains: the demo's task on few pixels, which says when its steps begin."""

from __future__ import annotations

import time
from typing import Any

from jobs.config import load_run_config
from jobs.isnet_task import ISNetTask
from trainplane.train.spec import TrainJob

COMMON = (
    "data.train=bench",
    "data.val=null",
    "data.size=32",
    "data.resize=40",
    # Neither has a state, and both cost time.
    "loss.perceptual=0",
    "loss.style=0",
    "train.workers=1",
    "train.threads=1",
    "train.log_every=50",
)
# When the steps of the run under way began.
BEGUN: list[float] = []


class Stamped(ISNetTask):
    """The task, which says when its steps begin."""

    def step(self, *args: Any, **settings: Any) -> Any:
        BEGUN.append(time.perf_counter())
        return super().step(*args, **settings)


def bench_job(data: str, place: str, *words: str) -> TrainJob:
    """A run of it on a packed dataset, without a record."""
    config = load_run_config("demo", [*COMMON, *words]).model_dump(mode="json")
    return TrainJob({**config, "task": f"{__name__}:{Stamped.__name__}"}, data, None, place)
