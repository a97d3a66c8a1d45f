"""Estimates the time of one complete trial.

The best source first: measured now on request, trials of this very search, the newest similar run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from jobs.config import ISNetConfig
from jobs.train.measure import RunData, measured_rate
from jobs.train.resources import ranks_here
from jobs.train.throughput import last_rate
from trainplane.cluster.context import Context
from trainplane.data.named import open_dataset
from trainplane.data.training_data import open_training_data
from trainplane.search.policy.state import SearchState
from trainplane.search.run.launch import Search, read_state


@dataclass(frozen=True)
class TrialTime:
    """Seconds of one complete trial, and their source."""

    seconds: float
    source: str


def known_trial_time(search: Search, context: Context) -> TrialTime | None:
    """Returns a trial's time by earlier runs, if any."""
    state = read_state(search, context)
    if state is not None and (seconds := seconds_per_step(state)) is not None:
        return TrialTime(search.train.steps * seconds, "at the speed of this search's own trials")
    base = search.configure(0, {}, 0)
    if not isinstance(base, ISNetConfig):
        return None
    rate = last_rate(base, context, gpu=base.train.use_gpu is True)
    return _complete(search, rate.pictures_per_s, str(rate)) if rate is not None else None


def needed_trial_seconds(search: Search, context: Context) -> float | None:
    """Seconds of a trial, where a limit needs them."""
    # A limit of steps needs no time.
    limits = search.settings.budget.model_dump(exclude={"steps"}, exclude_none=True)
    time = known_trial_time(search, context) if limits else None
    return time.seconds if time is not None else None


def measured_trial_time(search: Search, context: Context, *, at_once: int) -> TrialTime:
    """Times so many trials of the base configuration here."""
    base = cast("ISNetConfig", search.configure(0, {}, 0))
    train = open_training_data(base.data.train, base.data.mix, context, global_batch=base.train.global_batch)
    val = open_dataset(base.data.val, context) if base.data.val else None
    rate = measured_rate(base, ranks_here(base), RunData.of(train, val), groups=at_once)
    return _complete(search, rate.pictures_per_s, str(rate))


def seconds_per_step(state: SearchState) -> float | None:
    """Seconds of each step of the trials, starts included."""
    # Only trials that are at rest: of a running one, the time is not that of its committed steps.
    counted = [trial for trial in state.trials.values() if trial.status != "running" and trial.step]
    steps = sum(trial.step for trial in counted)
    seconds = sum(state.usage.trial_s.get(trial.number, 0.0) for trial in counted)
    return seconds / steps if steps and seconds else None


def _complete(search: Search, pictures_per_s: float, source: str) -> TrialTime:
    return TrialTime(search.train.steps * search.train.global_batch / pictures_per_s, f"a trial at {source}")
