"""One item of a search in a process of its own: prepare the run, train it to the item's last step, say how it went.

A trial goes on from its own checkpoints, so nothing behind a committed one is trained twice; its MLflow run is known by
its search and number and stays the same for life. Not covered: what is trained next (`engine`).
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from trainplane.cluster.context import Context
from trainplane.config.load import build
from trainplane.search.run.weights_transfer import copy_donor_weights, release_donor
from trainplane.task import load_task
from trainplane.tracking.runs import Status
from trainplane.train.launch.failure_policy import Cause, cause_of
from trainplane.train.launch.launch import newest_step, train
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import InUse
from trainplane.train.setup import PreparedRun, prepared_run
from trainplane.train.spec import NullProgress, Outcome

log = logging.getLogger(__name__)

# An earlier attempt's process may take a while to notice that its search is gone.
IN_USE_S = 300.0
SIGN_OF_LIFE_S = 2.0


@dataclass(frozen=True)
class Assignment:
    """What is to be trained. `goals`: metrics that must stay finite; `facts`: `module:function` for further values."""

    item: int
    trial: int
    last: int
    config: dict[str, Any]
    settings: dict[str, Any]
    goals: tuple[str, ...]
    extra_metrics: str | None = None
    donor: dict[str, Any] | None = None
    lineage: tuple[dict[str, Any], ...] = ()


Message = dict[str, Any]
Emit = Callable[[Message], None]


@dataclass
class _Alive(NullProgress):
    """Tells every now and then how far training is."""

    tell_step: Callable[[int], None]
    _next: float = field(default=0.0)

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + SIGN_OF_LIFE_S
            self.tell_step(step)


def train_item(assignment: Assignment, context: Context, *, parent_run_id: str, emit: Emit) -> None:
    """Train it. Everything is told: `began`, `seen`, and at last `done` or `failed`; nothing is raised."""
    try:
        _work(assignment, context, parent_run_id, emit)
    except Exception as error:
        # Whatever it is, the search goes on: it decides by the cause whether to try again.
        log.exception("trial %d failed", assignment.trial)
        emit({"k": "failed", "cause": cause_of(error).name, "error": f"{type(error).__name__}: {error}"[:500]})


def _work(assignment: Assignment, context: Context, parent_run_id: str, emit: Emit) -> None:
    context.activate()
    task_class = load_task(assignment.config["task"])
    config = build(task_class.Config, assignment.config)
    with _prepared(assignment, config, context, parent_run_id) as prepared:
        run_id, by = prepared.run.run_id, f"search {parent_run_id} trial {assignment.trial}"
        if assignment.donor is not None:
            copy_donor_weights(
                assignment.donor["checkpoint"], prepared.run_dir.address, config=config, task_class=task_class, by=by
            )
            release_donor(assignment.donor["checkpoint"], by=by)
            _record_takeover(context, run_id, assignment)
        emit({"k": "began", "step": max(newest_step(prepared.job), 0), "run_id": run_id})
        try:
            outcome = _train(assignment, config, prepared, emit)
        except Exception as error:
            status: Status = "KILLED" if cause_of(error) is Cause.NOTICE else "FAILED"
            prepared.end(status, {"trainplane.error": str(error)[:500]})
            raise
        prepared.end("FINISHED", {"trainplane.state_digest": outcome.state_digest})
        # MLflow's own by now, where the trial began without it.
        run_id = prepared.run_id
    values = {**outcome.metrics, **_facts(assignment)}
    is_lost = outcome.status != "finished" or any(not math.isfinite(values.get(n, 0.0)) for n in assignment.goals)
    emit(
        {"k": "done", "status": "nan" if is_lost else "finished", "step": outcome.step, "values": values}
        | {"run_id": run_id, "checkpoint": outcome.checkpoint, "seconds": outcome.seconds.get("wall", 0.0)}
    )


@contextmanager
def _prepared(assignment: Assignment, config: RunConfig, context: Context, parent_run_id: str) -> Iterator[PreparedRun]:
    """The run, as soon as no process of an earlier attempt holds it any more."""
    deadline = time.monotonic() + IN_USE_S
    while True:
        preparing = prepared_run(
            config,
            context,
            parent_run_id=parent_run_id,
            record_key=f"{parent_run_id}.trial-{assignment.trial:04d}",
            run_name=f"trial-{assignment.trial:04d}",
            tags={"trainplane.trial": str(assignment.trial)},
            explored=list(assignment.settings),
        )
        try:
            prepared = preparing.__enter__()
            break
        except InUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    try:
        yield prepared
    except BaseException as error:
        if not preparing.__exit__(type(error), error, error.__traceback__):
            raise
    else:
        preparing.__exit__(None, None, None)


def _train(assignment: Assignment, config: RunConfig, prepared: PreparedRun, emit: Emit) -> Outcome:
    def report(step: int, metrics: dict[str, float]) -> bool:
        absent = [name for name in assignment.goals if name.startswith("val/") and name not in metrics]
        if absent:
            known = ", ".join(sorted(metrics)) or "nothing"
            sentence = f"no trial reports {absent[0]!r}; validation reports {known}; name one of these as the objective"
            emit({"k": "missing", "sentence": sentence})
        emit({"k": "seen", "step": step, "values": {n: metrics[n] for n in assignment.goals if n in metrics}})
        return True

    measured = next((name for name in assignment.goals if name.startswith("val/")), None)
    job = replace(prepared.job, until=assignment.last, stop_at_nan=measured)
    alive = _Alive(lambda step: emit({"k": "seen", "step": step, "values": {}}))
    distributed = config.train.max_workers > 1
    return train(job, config.train, progress=alive, distributed=distributed, report=report)


def _facts(assignment: Assignment) -> dict[str, float]:
    """Values that come of the configuration, not of validation: parameters, memory, latency."""
    if assignment.extra_metrics is None:
        return {}
    module, _, function = assignment.extra_metrics.partition(":")
    found: dict[str, float] = getattr(importlib.import_module(module), function)(assignment.config, assignment.goals)
    return found


def _record_takeover(context: Context, run_id: str, assignment: Assignment) -> None:
    """Settings that changed on the way are points over steps: MLflow's parameters never change."""
    from mlflow.entities import Metric, RunTag
    from mlflow.exceptions import MlflowException

    assert assignment.donor is not None
    step, now = assignment.donor["step"], int(time.time() * 1000)
    tags = [
        RunTag(f"trainplane.exploit.{index}", f"step {one['step']}: trial {one['donor']}, {one['settings']}"[:500])
        for index, one in enumerate(assignment.lineage)
    ]
    points = [
        Metric(f"setting/{name}", float(value), now, step)
        for name, value in assignment.settings.items()
        if isinstance(value, (int, float))
    ]
    try:
        context.tracking_server.client.log_batch(run_id, metrics=points, tags=tags)
    except MlflowException as error:
        log.warning("the take-over is not recorded: %s", error)
