"""Plan against actual, in the record of the run: the artifact `plan.json`, written at the start and at the end.

Never fails a run: what cannot be reckoned or recorded is said on standard error, and training goes on.
"""

from __future__ import annotations

import json
import resource
import sys
from dataclasses import asdict
from typing import Any, cast

from jobs.config import ISNetConfig
from jobs.train.memory import new_state_bytes
from jobs.train.resources import ranks_here
from jobs.train.throughput import SPEED_TAG, last_rate, speed_key
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint.store import committed
from trainplane.train.estimate import Given, cost, estimate
from trainplane.train.setup import Prepared
from trainplane.train.spec import Outcome

ARTIFACT = "plan.json"


class PlanRecord:
    """What was planned for one run, kept until it has ended."""

    def __init__(self, prepared: Prepared, context: Context) -> None:
        self._prepared = prepared
        self._context = context
        self._done = 0
        self._planned: dict[str, Any] = {}
        self._attempt(self._plan)

    def close(self, outcome: Outcome) -> None:
        """Write what came of it beside what was planned."""
        self._attempt(lambda: self._write(actual=self._actual(outcome)))

    def _plan(self) -> None:
        config = cast("ISNetConfig", self._prepared.config)
        present = committed(open_store(self._prepared.place.address))
        self._done = present[-1].step if present else 0
        if self._done >= config.train.steps:
            # Nothing is left to plan, and what was recorded when it was trained stays.
            return
        ranks = ranks_here(config)
        key = speed_key(config, gpu=ranks.gpu)
        # Looked up before the tag is set: this very run is not its own forerunner, unless it goes on.
        rate = None if self._prepared.run.away else last_rate(config, self._context, gpu=ranks.gpu)
        self._speed = key
        data = Dataset.open(self._prepared.job.train_data)
        val = Dataset.open(self._prepared.job.val_data) if self._prepared.job.val_data else None
        given = Given(
            done=self._done,
            ranks=ranks.most,
            samples=data.num_samples,
            data_bytes=data.bytes,
            val_bytes=round(val.bytes * min(1.0, config.data.val_samples / val.num_samples)) if val else 0,
            is_cached=config.data.cache is not None,
            state_bytes=new_state_bytes(config),
            pictures_per_s=rate.pictures_per_s if rate else None,
        )
        self._planned = {**asdict(estimate(config.train, given)), "rate_from": rate.source if rate else None}
        self._write(actual=None)

    def _actual(self, outcome: Outcome) -> dict[str, Any]:
        train = self._prepared.config.train
        present = committed(open_store(self._prepared.place.address))
        newest = sum(facts["bytes"] for facts in present[-1].manifest["files"].values()) if present else None
        seconds = outcome.seconds.get("wall")
        return {
            "steps": outcome.step - self._done,
            "seconds": seconds,
            "pictures_per_s": outcome.pictures_per_s,
            "cost": cost(train, ranks=train.world_sizes[-1], seconds=seconds),
            "checkpoint_bytes": newest,
            "checkpoints_kept": len(present),
            # Of this process; ranks on a cluster are others.
            "peak_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }

    def _write(self, *, actual: dict[str, Any] | None) -> None:
        if self._planned:
            about = {"planned": self._planned, "actual": actual}
            self._prepared.note({SPEED_TAG: self._speed}, {ARTIFACT: json.dumps(about, indent=2) + "\n"})

    def _attempt(self, act: Any) -> None:
        from botocore.exceptions import BotoCoreError, ClientError
        from mlflow.exceptions import MlflowException

        try:
            act()
        except (MlflowException, BotoCoreError, ClientError, UserError, RunFailed, OSError) as error:
            print(f"isnet: the plan could not be recorded beside the run: {error}", file=sys.stderr)
