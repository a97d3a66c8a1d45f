"""Trains one work item of a search.

A trial resumes from its own checkpoints, so no step before a committed one is trained twice. Its MLflow run follows
from its search and number and stays the same.
"""

from __future__ import annotations

import importlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from trainplane.cluster.context import Context
from trainplane.config.load import build
from trainplane.search.run.weights_transfer import copy_donor_weights, pin_owner, release_donor
from trainplane.task import load_task
from trainplane.tracking.mlflow_names import metric, run_tag
from trainplane.tracking.tracker import Status
from trainplane.train.launch.failure_policy import Cause, cause_of
from trainplane.train.launch.launch import newest_step, train
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import InUse
from trainplane.train.setup import PreparedRun, prepared_run
from trainplane.train.spec import NullProgress, Outcome

log = logging.getLogger(__name__)

# Longest wait for a process of an earlier attempt, which may notice late that its search was killed.
IN_USE_S = 300.0
# Time between reports of progress without values.
PROGRESS_EVERY_S = 2.0


@dataclass(frozen=True)
class Assignment:
    """Work item, complete for another process."""

    item: int
    trial: int
    last: int  # Step that the trial is trained to
    config: dict[str, Any]
    settings: dict[str, Any]
    goals: tuple[str, ...]  # Metrics that must stay finite
    extra_metrics: str | None = None  # `module:function` that returns metrics which validation does not measure
    donor: dict[str, Any] | None = None  # Exploit before this item, {donor, checkpoint, step}
    lineage: tuple[dict[str, Any], ...] = ()  # All exploits of the trial


Message = dict[str, Any]
Emit = Callable[[Message], None]
"""Sends a message to the driver, see `ray_tune.TuneBridge.handle`."""


@dataclass
class _StepReporter(NullProgress):
    """Reports the current step every few seconds."""

    emit_step: Callable[[int], None]
    _next: float = field(default=0.0)

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Reports the step if it is time."""
        now = time.monotonic()
        # At most one report every few seconds.
        if now >= self._next:
            self._next = now + PROGRESS_EVERY_S
            self.emit_step(step)


def train_item(assignment: Assignment, context: Context, *, parent_run_id: str, emit: Emit) -> None:
    """Trains an item and emits its messages; raises nothing.

    Messages are `began`, `seen`, and at last `done` or `failed`.
    """
    try:
        _train_item(assignment, context, parent_run_id, emit)
    except Exception as error:
        # The search continues, and decides by the cause whether to try again.
        log.exception("trial %d failed", assignment.trial)
        emit({"k": "failed", "cause": cause_of(error).name, "error": f"{type(error).__name__}: {error}"[:500]})


def _train_item(assignment: Assignment, context: Context, parent_run_id: str, emit: Emit) -> None:
    context.activate()
    task_class = load_task(assignment.config["task"])
    config = build(task_class.Config, assignment.config)
    with _prepared(assignment, config, context, parent_run_id) as prepared:
        run_id = prepared.run.run_id
        # An exploit: start from the donor's checkpoint instead of nothing.
        if assignment.donor is not None:
            donor, owner = assignment.donor["checkpoint"], pin_owner(parent_run_id, assignment.trial)
            copy_donor_weights(donor, prepared.run_dir.address, config=config, task_class=task_class, by=owner)
            release_donor(donor, by=owner)
            _record_exploit(context, run_id, assignment)
        emit({"k": "began", "step": max(newest_step(prepared.job), 0), "run_id": run_id})
        try:
            outcome = _train(assignment, config, prepared, emit)
        except Exception as error:
            # A preempted trial is started again.
            status: Status = "KILLED" if cause_of(error) is Cause.NOTICE else "FAILED"
            prepared.end(status, {"trainplane.error": str(error)[:500]})
            raise
        prepared.end("FINISHED", {"trainplane.state_digest": outcome.state_digest})
        # A trial that started while MLflow was unreachable has MLflow's own id by now.
        run_id = prepared.run_id
    # A result without finite objectives counts as NaN, although its training finished.
    values = {**outcome.metrics, **_extra_metrics(assignment)}
    is_nan = outcome.status != "finished" or any(not math.isfinite(values.get(n, 0.0)) for n in assignment.goals)
    emit(
        {"k": "done", "status": "nan" if is_nan else "finished", "step": outcome.step, "values": values}
        | {"run_id": run_id, "checkpoint": outcome.checkpoint, "seconds": outcome.seconds.get("wall", 0.0)}
    )


@contextmanager
def _prepared(assignment: Assignment, config: RunConfig, context: Context, parent_run_id: str) -> Iterator[PreparedRun]:
    """Prepares the run, once no earlier attempt uses it."""
    deadline = time.monotonic() + IN_USE_S
    with ExitStack() as stack:
        while True:
            try:
                prepared = stack.enter_context(
                    prepared_run(
                        config,
                        context,
                        parent_run_id=parent_run_id,
                        # Finds the trial's MLflow run again in every attempt.
                        record_key=f"{parent_run_id}.trial-{assignment.trial:04d}",
                        run_name=f"trial-{assignment.trial:04d}",
                        tags={"trainplane.trial": str(assignment.trial)},
                        explored=list(assignment.settings),
                    )
                )
                break
            except InUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        yield prepared


def _train(assignment: Assignment, config: RunConfig, prepared: PreparedRun, emit: Emit) -> Outcome:
    """Trains to the item's last step; reports each validation."""

    def report(step: int, metrics: dict[str, float]) -> bool:
        # An objective that validation does not measure stops the whole search: no trial would report it.
        absent = [name for name in assignment.goals if name.startswith("val/") and name not in metrics]
        if absent:
            reported = ", ".join(sorted(metrics)) or "nothing"
            text = f"no trial reports {absent[0]!r}; validation reports {reported}; name one of these as the objective"
            emit({"k": "missing", "message": text})
        emit({"k": "seen", "step": step, "values": {n: metrics[n] for n in assignment.goals if n in metrics}})
        return True

    objective = next((name for name in assignment.goals if name.startswith("val/")), None)
    job = replace(prepared.job, until=assignment.last, stop_at_nan=objective)
    progress = _StepReporter(lambda step: emit({"k": "seen", "step": step, "values": {}}))
    distributed = config.train.max_workers > 1
    return train(job, config.train, progress=progress, distributed=distributed, report=report)


def _extra_metrics(assignment: Assignment) -> dict[str, float]:
    """Metrics of the configuration, such as parameters, memory, latency."""
    if assignment.extra_metrics is None:
        return {}
    module, _, function = assignment.extra_metrics.partition(":")
    # Imported here, because a platform module cannot import a task's module.
    metrics: dict[str, float] = getattr(importlib.import_module(module), function)(assignment.config, assignment.goals)
    return metrics


def _record_exploit(context: Context, run_id: str, assignment: Assignment) -> None:
    # Records changed settings as metrics over steps. MLflow's parameters cannot change.
    from mlflow.exceptions import MlflowException

    assert assignment.donor is not None
    step, now = assignment.donor["step"], int(time.time() * 1000)
    # Text of all exploits so far, and numeric settings as points at the step of the exploit.
    tags = [
        run_tag(
            f"trainplane.exploit.{index}",
            f"step {exploit['step']}: trial {exploit['donor']}, {exploit['settings']}"[:500],
        )
        for index, exploit in enumerate(assignment.lineage)
    ]
    points = [
        metric(f"setting/{name}", float(value), now, step)
        for name, value in assignment.settings.items()
        if isinstance(value, (int, float))
    ]
    try:
        context.tracking_server.client.log_batch(run_id, metrics=points, tags=tags)
    except MlflowException as error:
        log.warning("the exploit is not recorded: %s", error)
