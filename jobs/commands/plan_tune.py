"""`isnet plan tune SEARCH [a.b=c …]`: what a search would take, and why it would be refused; starts nothing.

Not covered: what one trial takes in memory and bytes, which `isnet plan train` tells of the search's base.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from typing import Any

from isnet.errors import InputError
from jobs.cli.findings import refused
from jobs.cli.main import emit
from jobs.search.spec import check_room, load_search, search_of, seconds_of_one
from trainplane.cluster.context import resolve
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import RunFailed, UserError
from trainplane.search.policy.admission import admit
from trainplane.search.run.driver import trial_limit
from trainplane.search.run.launch import Search, need_of, rates_of


def plan_tune(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    try:
        loaded = load_search(args.preset, args.overrides)
        search = search_of(loaded, context, may_pack=False)
        seconds = seconds_of_one(loaded, search, context, always=True)
        check_room(search, seconds_of_one=seconds)
    except (UserError, InputError, RunFailed) as refusal:
        print(f"isnet: it would be refused: {refusal}", file=sys.stderr)
        if args.json:
            emit(args, {"ok": False, "findings": [asdict(refused(refusal))]}, "")
        return 2
    found = reckoned(search, seconds)
    emit(args, {"ok": True, "findings": [], **found}, _text(search, found))
    return 0


def reckoned(search: Search, seconds: float | None) -> dict[str, Any]:
    """Trials, steps and time at most. On a cluster the number of trials at once is known when it is there."""
    plan = search.plan(rates_of(need := need_of(search.train, gpus=0.0), search.train))
    trials = trial_limit(search.settings, plan)
    at_once = None
    if not in_ray_job() and search.train.use_gpu is not True:
        nodes = [(float(os.cpu_count() or 1), 0.0)]
        at_once = admit(need, nodes=nodes, trials=trials, wanted=search.settings.concurrent)
    steps = most_steps(search, trials)
    per_step = seconds / search.train.steps if seconds else None
    return {
        "trials": trials,
        "at_once": at_once,
        "cpus_of_one": need.cpus,
        "rungs": plan.rungs,
        "steps_at_most": steps,
        "cpu_hours_at_most": per_step and per_step * steps * need.cpus / 3600,
        "hours_at_most": per_step and at_once and per_step * steps / at_once / 3600,
    }


def most_steps(search: Search, trials: int) -> int:
    """Steps of all trials together if everything goes on that may: with ASHA, one in `eta` at each rung."""
    total, left, before = 0, trials, 0
    asha = search.settings.asha
    for rung in search.plan(rates_of(need_of(search.train, gpus=0.0), search.train)).rungs:
        total += left * (rung - before)
        left, before = (max(1, left // asha.eta) if asha is not None else left), rung
    limit = search.settings.budget.steps
    return total if limit is None else min(total, limit)


def _text(search: Search, found: dict[str, Any]) -> str:
    at_once = found["at_once"] or "as many at once as the cluster has room for"
    lines = [
        f"search {search.name}: {search.settings.algorithm}, at most {found['trials']} trials, {at_once} at once",
        f"  one trial    {found['cpus_of_one']:g} CPUs, {search.train.steps:,} steps; judged after "
        + ", ".join(f"{rung:,}" for rung in found["rungs"]),
        f"  all together {found['steps_at_most']:,} steps at most",
    ]
    if found["cpu_hours_at_most"]:
        hours = f", {found['hours_at_most']:.3g} hours" if found["hours_at_most"] else ""
        lines.append(
            f"  time         {found['cpu_hours_at_most']:.3g} CPU-hours{hours} at most, as the last run like it"
        )
    return "\n".join(lines)
