"""Records plan and actual of a run in MLflow.

The artifact `plan.json` is written at the start and completed at the end. It never fails a run: what cannot be
estimated or recorded is reported on standard error, and training continues.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jobs.config import ISNetConfig
from jobs.train.memory import new_state_bytes
from jobs.train.plan import estimate_run
from jobs.train.resources import ranks_here
from jobs.train.throughput import SPEED_TAG, last_rate, speed_key
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.data.training_data import reopen_training_data
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint.store import committed, newest_first
from trainplane.train.estimate import cost
from trainplane.train.setup import PreparedRun
from trainplane.train.spec import Outcome

ARTIFACT = "plan.json"


class PlanRecord:
    """The plan of one run until the run has ended."""

    def __init__(self, prepared: PreparedRun, context: Context) -> None:
        """Plans the run and records the plan."""
        self._prepared = prepared
        self._context = context
        self._done = 0
        self._planned: dict[str, Any] = {}
        self._attempt(self._plan)

    def close(self, outcome: Outcome) -> None:
        """Records the actual figures beside the plan."""
        self._attempt(lambda: self._write(actual=self._actual(outcome)))

    def _plan(self) -> None:
        config = self._prepared.config
        if not isinstance(config, ISNetConfig):
            # Bytes and speed are computed from ISNet's networks.
            return
        newest = next(newest_first(open_store(self._prepared.run_dir.address)), None)
        self._done = newest.step if newest else 0
        if self._done >= config.train.steps:
            # A finished run has nothing left to plan; its record from the time of training stays.
            return
        ranks = ranks_here(config)
        # Looked up before the tag is set: a new run must not find itself.
        self._speed = speed_key(config, gpu=ranks.gpu)
        rate = None
        if not self._prepared.run.offline_reason:
            rate = last_rate(config, self._context, gpu=ranks.gpu, run_key=self._prepared.run_dir.key)
        job = self._prepared.job
        estimate = estimate_run(
            config,
            reopen_training_data((job.train_data, None, job.mix), global_batch=config.train.global_batch),
            Dataset.open(job.val_data) if job.val_data else None,
            done=self._done,
            ranks=ranks.most,
            hosts=ranks.hosts,
            state_bytes=new_state_bytes(config),
            rate=rate,
        )
        self._planned = {**asdict(estimate), "rate_from": rate.source if rate else None}
        self._write(actual=None)

    def _actual(self, outcome: Outcome) -> dict[str, Any]:
        train = self._prepared.config.train
        checkpoints = committed(open_store(self._prepared.run_dir.address))
        # The newest checkpoint stands for all: their sizes are nearly equal.
        files = checkpoints[-1].manifest["files"].values() if checkpoints else None
        return {
            "steps": outcome.step - self._done,
            # Of all attempts, as the plan is of the whole way.
            "seconds": outcome.attempts_s,
            "pictures_per_s": outcome.pictures_per_s,
            "cost": cost(train, ranks=1, seconds=outcome.rank_s),
            "checkpoint_bytes": None if files is None else sum(file["bytes"] for file in files),
            "checkpoints_kept": len(checkpoints),
            # Of this process; ranks on a cluster are other processes.
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def _write(self, *, actual: dict[str, Any] | None) -> None:
        if self._planned:
            record = {"planned": self._planned, "actual": actual}
            self._prepared.note({SPEED_TAG: self._speed}, {ARTIFACT: json.dumps(record, indent=2) + "\n"})

    def _attempt(self, act: Callable[[], None]) -> None:
        # Imported late, as they take time.
        from botocore.exceptions import BotoCoreError, ClientError
        from mlflow.exceptions import MlflowException

        try:
            act()
        except (MlflowException, BotoCoreError, ClientError, UserError, RunFailed, OSError) as error:
            print(f"isnet: the plan could not be recorded beside the run: {error}", file=sys.stderr)
