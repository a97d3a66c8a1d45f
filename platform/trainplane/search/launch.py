"""Carry a search out on Ray Tune: trials of the same loop under one parent run.

A trial of one worker runs the loop in its own process; one of several starts its workers under Ray Train. Trials go on
from their own checkpoints, so a search that is started again pays nothing twice for what was committed.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.session import ray_session, scratch_folder
from trainplane.config import RunConfig
from trainplane.errors import RunFailed, UserError
from trainplane.search.admission import Need, admit
from trainplane.search.space import Objective
from trainplane.tracking.run import end_run
from trainplane.train.job import Job, Outcome, Silent
from trainplane.train.launch import train
from trainplane.train.prepare import prepared_run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """One configuration of a search. `settings` are the explored values, dotted names."""

    number: int
    settings: Mapping[str, Any]
    config: RunConfig


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended. `error` is a sentence where it failed."""

    number: int
    settings: dict[str, Any]
    run_id: str
    status: str
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: str = ""
    seconds: float = 0.0
    error: str | None = None


Watch = Callable[[list[TrialResult]], None]


def search(
    trials: Sequence[Trial],
    context: Context,
    *,
    parent_run_id: str,
    concurrent: int | None,
    watch: Watch,
) -> list[TrialResult]:
    """Run all trials, as many at once as fit; results in the order of their numbers.

    `watch` is told the results so far whenever a trial ends. Raises `UserError` where not one trial fits.
    """
    train_config = trials[0].config.train
    with ray_session() as ray, scratch_folder() as scratch:
        from ray import tune

        resources = ray.cluster_resources()
        gpus = resources.get("GPU", 0.0)
        wants_gpu = train_config.use_gpu is True or (train_config.use_gpu == "auto" and gpus > 0)
        need = Need(train_config.max_workers, train_config.cpus_per_worker, 1.0 if wants_gpu else 0.0)
        at_once = admit(need, cpus=resources.get("CPU", 0.0), gpus=gpus, trials=len(trials), wanted=concurrent)
        context_values = asdict(context)

        def trainable(settings: dict[str, Any]) -> None:
            tune.report(asdict(run_trial(settings["trial"], Context(**context_values), parent_run_id=parent_run_id)))

        collector = _collector(tune, watch)
        tuner = tune.Tuner(
            tune.with_resources(
                trainable, {"CPU": need.own_cpus, **({"GPU": need.gpus} if need.workers == 1 and need.gpus else {})}
            ),
            param_space={"trial": tune.grid_search(list(trials))},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, trial_dirname_creator=_dirname),
            run_config=tune.RunConfig(name="search", storage_path=scratch, verbose=0, callbacks=[collector]),
        )
        tuner.fit()
        found = {result.number: result for result in collector.results}
    # A trial whose process died told nobody; it is counted as failed and does not sink the search.
    return [found.get(trial.number) or _lost(trial) for trial in trials]


def run_trial(trial: Trial, context: Context, *, parent_run_id: str) -> TrialResult:
    """Train one trial to its end, here or under Ray Train; a failure of its own is a result, not an exception."""
    try:
        return _run_prepared(trial, context, parent_run_id)
    except UserError as error:
        return TrialResult(trial.number, dict(trial.settings), "", "failed", error=str(error))


def _run_prepared(trial: Trial, context: Context, parent_run_id: str) -> TrialResult:
    context.activate()
    with prepared_run(
        trial.config,
        context,
        parent_run_id=parent_run_id,
        run_name=f"trial-{trial.number:04d}",
        tags={"trainplane.trial": str(trial.number)},
        explored=list(trial.settings),
    ) as prepared:
        run_id = prepared.run.run_id
        try:
            outcome = _train_trial(prepared.job, trial.config)
        except (UserError, RunFailed) as error:
            end_run(context.tracking, run_id, "FAILED", {"trainplane.error": str(error)[:500]})
            return TrialResult(trial.number, dict(trial.settings), run_id, "failed", error=str(error))
        end_run(context.tracking, run_id, "FINISHED", {"trainplane.state_digest": outcome.state_digest})
    return TrialResult(
        trial.number,
        dict(trial.settings),
        run_id,
        outcome.status,
        step=outcome.step,
        metrics=outcome.metrics,
        checkpoint=outcome.checkpoint,
        seconds=outcome.seconds.get("wall", 0.0),
    )


def _train_trial(job: Job, config: RunConfig) -> Outcome:
    return train(job, config.train, progress=Silent(), distributed=config.train.max_workers > 1)


def best_of(results: Sequence[TrialResult], objective: Objective) -> TrialResult:
    """The best finished trial; NaN and missing are the worst. Raises `RunFailed` where no trial has a value."""
    values = [(score(result, objective), result) for result in results]
    value, best = max(values, key=lambda pair: (pair[0], -pair[1].number))
    if value == -math.inf:
        known = sorted({name for result in results for name in result.metrics})
        raise RunFailed(
            f"no trial reported a finite {objective.metric}; reported were: {', '.join(known) or 'nothing'}"
        )
    return best


def score(result: TrialResult, objective: Objective) -> float:
    """The objective as a number to maximise."""
    value = result.metrics.get(objective.metric, math.nan)
    if not math.isfinite(value):
        return -math.inf
    return value if objective.mode == "max" else -value


def _lost(trial: Trial) -> TrialResult:
    return TrialResult(trial.number, dict(trial.settings), "", "failed", error="its process was lost")


def _dirname(trial: Any) -> str:
    return f"trial-{trial.trial_id}"


def _collector(tune: Any, watch: Watch) -> Any:
    """A Tune callback that keeps results as they come; Tune's own copies go with its scratch folder."""

    class Collector(tune.Callback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.results: list[TrialResult] = []

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
            names = TrialResult.__dataclass_fields__
            self.results.append(TrialResult(**{name: result[name] for name in names if name in result}))
            watch(list(self.results))

    return Collector()
