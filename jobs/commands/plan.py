"""`isnet plan train|tune|simulate`: resources and refusals, in advance.

Nothing is started or created. `plan train` reports every reason for a refusal, not only the first one. Not covered:
whether the stores can be written (`isnet doctor`), and memory and bytes of a search's trials (`isnet plan train` with
the search's base).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from isnet.errors import InputError
from jobs.cli.findings import Finding
from jobs.cli.format import duration, size
from jobs.cli.main import emit
from jobs.search.spec import build_search, check_resources, load_search
from jobs.search.trial_time import TrialTime, known_trial_time, measured_trial_time
from jobs.train.plan import TrainingPlan, make_plan
from jobs.train.simulation import simulated_run
from jobs.train.throughput import Rate
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import RunFailed, UserError
from trainplane.search.policy.admission import admit
from trainplane.search.run.driver import trial_limit
from trainplane.search.run.launch import Search, cost_rates, trial_resources
from trainplane.train.batch_size import BatchSplit, split_batch
from trainplane.train.estimate import Estimate


def plan_train(args: argparse.Namespace, context: Context) -> int:
    """Plans one run."""
    plan = make_plan(args.preset, args.overrides, context, fresh=args.fresh, measure=args.measure)
    text = "\n".join(_training_lines(plan))
    refusals = [finding for finding in plan.findings if finding.level == "error"]
    # With --json the refusals are among the findings.
    if not args.json:
        for refusal in refusals:
            print(f"isnet: would be refused: {refusal}", file=sys.stderr)
    if text or args.json:
        emit(args, _training_payload(plan), text)
    return 0 if plan.ok else 2


def plan_simulate(args: argparse.Namespace, context: Context) -> int:
    """Simulates one run on more GPUs than are here."""
    emit(args, *simulated_run(args))
    return 0


def plan_tune(args: argparse.Namespace, context: Context) -> int:
    """Plans a search."""
    try:
        # A search is refused at its first fault, unlike a run.
        loaded = load_search(args.preset, args.overrides)
        search = build_search(loaded, context, may_pack=False)
        trial_time = None if args.measure else known_trial_time(search, context)
        check_resources(search, trial_seconds=None if trial_time is None else trial_time.seconds)
        at_once = _trials_at_once(search)
        if args.measure:
            # Trials slow each other, so as many are timed as will run at once.
            trial_time = measured_trial_time(search, context, at_once=at_once or 1)
            check_resources(search, trial_seconds=trial_time.seconds)
    except (UserError, InputError, RunFailed) as refusal:
        print(f"isnet: would be refused: {refusal}", file=sys.stderr)
        if args.json:
            finding = Finding.from_error(refusal)
            emit(args, {"ok": False, **_error_payload(finding), "findings": [asdict(finding)]}, "")
        return 2
    estimate = _estimate_search(search, trial_time, at_once)
    emit(args, {"ok": True, "findings": [], **estimate}, _search_text(search, estimate))
    return 0


def _error_payload(finding: Finding) -> dict[str, Any]:
    """Returns a refusal as every command reports one."""
    return {"error": finding.what, "remedy": finding.remedy or None}


def _training_payload(plan: TrainingPlan) -> dict[str, Any]:
    """Returns the output of `plan train --json`."""
    batch, refusals = _batch(plan), [finding for finding in plan.findings if finding.level == "error"]
    return {
        "ok": plan.ok,
        **(_error_payload(refusals[0]) if refusals else {}),
        "findings": [asdict(finding) for finding in plan.findings],
        "run": plan.place.folder if plan.place else None,
        "done": plan.done,
        "workers": asdict(plan.ranks) if plan.ranks else None,
        "batch": {**asdict(batch), "accumulation": batch.accumulation} if batch else None,
        "memory": asdict(plan.memory) if plan.memory else None,
        "rate": asdict(plan.rate) if plan.rate else None,
        "estimate": asdict(plan.estimate) if plan.estimate else None,
    }


def _batch(plan: TrainingPlan) -> BatchSplit | None:
    if plan.config is None or plan.ranks is None:
        return None
    train = plan.config.train
    return split_batch(global_batch=train.global_batch, ranks=plan.ranks.most, micro_batch=train.fixed_micro)


def _training_lines(plan: TrainingPlan) -> Iterator[str]:
    """Yields the output of `plan train` for people."""
    # Without a valid configuration there are only refusals.
    if plan.config is None:
        return
    config, train = plan.config, plan.config.train
    folder = plan.place.folder if plan.place else config.name
    yield f"{folder}: " + (f"resumes from step {plan.done}" if plan.done else "a new run")
    if plan.ranks is not None:
        yield f"  workers      {plan.ranks}"
        yield f"  batch        {_batch(plan)}" + (
            ", halved while memory runs out" if train.micro_batch == "auto" else ""
        )
    if plan.memory is not None:
        yield f"  memory       {plan.memory}"
    if plan.estimate is not None:
        yield from _estimate_lines(plan.estimate, plan.rate, train.price_per_hour)
    else:
        yield f"  steps        {train.steps:,} of {train.global_batch} pictures"
    # Refusals are printed by the command, on standard error.
    for finding in plan.findings:
        if finding.level != "error":
            yield f"  {finding.level:<12} {finding}"


def _estimate_lines(estimate: Estimate, rate: Rate | None, price: float | None) -> Iterator[str]:
    yield f"  steps        {estimate.steps:,} = {estimate.pictures:,} pictures = {estimate.epochs:,.1f} epochs"
    yield f"  from store   {size(estimate.bytes_read)}"
    # A cadence in minutes gives a number of checkpoints only if the speed is known.
    count = "as many as fit into the time" if estimate.checkpoints is None else f"{estimate.checkpoints:,}"
    total = ""
    # The kept ones are fewer: retention deletes the others.
    if estimate.bytes_written is not None:
        total = f" = {size(estimate.bytes_written)}, {estimate.checkpoints_kept} kept"
    yield f"  checkpoints  {count} × {size(estimate.checkpoint_bytes)}{total}"
    # Time and cost need a speed.
    if rate is not None and estimate.seconds is not None:
        yield f"  time         {duration(estimate.seconds)} at {rate}"
    if estimate.cost is not None:
        yield f"  cost         {estimate.cost:,.2f} at {price:g} a worker and hour"
    elif price is not None:
        yield "  cost         unknown, as the time is"


def _trials_at_once(search: Search) -> int | None:
    """Counts the trials that run at once; None if unknown."""
    # Known only for a private cluster on this machine without GPUs.
    if in_ray_job() or search.train.use_gpu is True:
        return None
    resources = trial_resources(search.train, gpus=0.0)
    trials = trial_limit(search.plan(cost_rates(resources, search.train)))
    nodes = [(float(os.cpu_count() or 1), 0.0)]
    return admit(resources, nodes=nodes, trials=trials, requested=search.settings.concurrent)


def _estimate_search(search: Search, trial_time: TrialTime | None, at_once: int | None) -> dict[str, Any]:
    """Bounds trials, steps and time, as `plan tune --json` shows."""
    resources = trial_resources(search.train, gpus=0.0)
    plan = search.plan(cost_rates(resources, search.train))
    trials = trial_limit(plan)
    # Time is bounded by the steps, at the speed of one trial if that is known.
    steps = _most_steps(search, plan.rungs, trials)
    per_step = trial_time.seconds / search.train.steps if trial_time else None
    return {
        "trials": trials,
        "at_once": at_once,
        "cpus_of_one": resources.cpus,
        "rungs": plan.rungs,
        "steps_at_most": steps,
        "cpu_hours_at_most": per_step and per_step * steps * resources.cpus / 3600,
        "hours_at_most": per_step and at_once and per_step * steps / at_once / 3600,
        "time_from": trial_time.source if trial_time else None,
    }


def _most_steps(search: Search, rungs: list[int], trials: int) -> int:
    """Counts the steps of all trials if none fails."""
    # Each rung adds its steps for all trials that are still active.
    total, active, before = 0, trials, 0
    asha = search.settings.asha
    for rung in rungs:
        # With ASHA one trial in `eta` continues after each rung, and at least one.
        total += active * (rung - before)
        active, before = (max(1, active // asha.eta) if asha is not None else active), rung
    # The budget may end the search before.
    limit = search.settings.budget.steps
    return total if limit is None else min(total, limit)


def _search_text(search: Search, estimate: dict[str, Any]) -> str:
    at_once = estimate["at_once"] or "as many at once as the cluster has room for"
    lines = [
        f"search {search.name}: {search.settings.algorithm}, at most {estimate['trials']} trials, {at_once} at once",
        f"  one trial    {estimate['cpus_of_one']:g} CPUs, {search.train.steps:,} steps; evaluated after "
        + ", ".join(f"{rung:,}" for rung in estimate["rungs"]),
        f"  all together {estimate['steps_at_most']:,} steps at most",
    ]
    if estimate["cpu_hours_at_most"]:
        hours = estimate["hours_at_most"]
        wall = f"{duration(3600 * hours)} at most, " if hours else ""
        lines.append(
            f"  time         {wall}{estimate['cpu_hours_at_most']:.3g} CPU-hours at most ({estimate['time_from']})"
        )
    else:
        lines.append("  time         unknown, as no similar run is recorded; add --measure to time a few steps here")
    return "\n".join(lines)
