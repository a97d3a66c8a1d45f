"""`isnet tune SEARCH [a.b=c …]`: one search, many runs of the same loop under one parent run."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, cast

from jobs.cli import emit
from jobs.config import ISNetConfig, merge, preset_names, preset_tree
from jobs.mask_sets import with_located_masks
from jobs.sample_photos import ensure_sample_datasets
from trainplane.cluster.context import Context, resolve
from trainplane.config import apply_overrides, build
from trainplane.errors import UserError
from trainplane.search.launch import Trial, TrialResult, best_of, score, search
from trainplane.search.space import Objective, SearchFile, put, search_key, trial_settings
from trainplane.storage import open_store
from trainplane.tracking.client import client_for
from trainplane.tracking.run import Status, end_run, find_or_create_run, reap
from trainplane.train.identity import exclusive
from trainplane.train.pins import pin, unpin


def tune(args: argparse.Namespace) -> int:
    """The command."""
    context = resolve(args.context)
    context.activate()
    file, base = load_search(args.preset, args.overrides)
    trials = [
        replace(trial, config=with_located_masks(cast("ISNetConfig", trial.config), context))
        for trial in trials_of(file, base)
    ]
    ensure_sample_datasets([trials[0].config.data.train, trials[0].config.data.val], context)
    reap(context.tracking)
    objective = file.search.objective
    key = search_key(file, base)
    # Held before MLflow hears of it, as for a run.
    with exclusive(context.home, f"search-{key[:16]}", doing=f"running search {file.name}"):
        parent = find_or_create_run(
            context.tracking,
            trials[0].config.tracking.experiment,
            run_key=key,
            run_name=file.name,
            tags={"trainplane.search": file.name, "trainplane.objective": f"{objective.mode} {objective.metric}"},
            artifact_root=context.artifacts,
        )
        print(f"search {file.name}: {len(trials)} trials, {objective.mode} {objective.metric}", file=sys.stderr)
        try:
            results = search(
                trials,
                context,
                parent_run_id=parent.run_id,
                concurrent=file.search.concurrent,
                watch=lambda so_far: _say_newest(so_far, objective.metric, len(trials)),
            )
            best = best_of(results, objective)
            pin_best(results, best, by=f"search {parent.run_id}")
        except BaseException as error:
            status: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
            end_run(context.tracking, parent.run_id, status, {"trainplane.error": str(error)[:500]})
            # Its trials died with the cluster; nobody else closes them.
            reap(context.tracking)
            raise
        _record(context, parent.run_id, results, best, objective.metric)
    registered = _register(file, context, best)
    payload = {
        "search_run_id": parent.run_id,
        "trials": [asdict(result) for result in results],
        "best": {"run_id": best.run_id, "config": best.settings, "metrics": best.metrics},
        "spent": {"cpu_seconds": sum(r.seconds * trials[0].config.train.max_workers for r in results)},
        "registered": registered,
    }
    emit(args, payload, leaderboard(results, objective) + _said(registered))
    return 0


def load_search(preset: str, overrides: Sequence[str]) -> tuple[SearchFile, dict[str, Any]]:
    """The search file and the resolved settings under every trial. Overrides go to the search or to its base."""
    tree = preset_tree(preset)
    if "search" not in tree:
        searches = ", ".join(preset_names("search_"))
        raise UserError(f"{preset!r} is no search (no 'search:' section); try {searches}, or `isnet train {preset}`")
    of_search = [override for override in overrides if override.startswith("search.")]
    file = build(SearchFile, apply_overrides(tree, of_search))
    of_base = [override for override in overrides if not override.startswith("search.")]
    return file, apply_overrides(merge(preset_tree(file.base), file.overrides), of_base)


def trials_of(file: SearchFile, base: dict[str, Any]) -> list[Trial]:
    """Every trial's frozen configuration; an unknown setting in the space is refused here, before anything starts."""
    trials = []
    for number, settings in enumerate(trial_settings(file.search)):
        tree = merge({}, base)
        tree = apply_overrides(tree, [])
        for name, value in settings.items():
            put(tree, name, value)
        tree["name"] = f"{file.name}-{number:04d}"
        trials.append(Trial(number, settings, build(ISNetConfig, tree)))
    if trials[0].config.data.val is None:
        raise UserError(f"search {file.name!r}: {file.search.objective.metric} needs held-out pictures; set data.val=…")
    return trials


def _say_newest(results: list[TrialResult], metric: str, total: int) -> None:
    newest = results[-1]
    value = newest.metrics.get(metric)
    told = f"{metric} {value:.4f}" if value is not None else newest.error or "no value"
    settings = ", ".join(f"{name}={_short(value)}" for name, value in newest.settings.items())
    print(f"trial {newest.number} {newest.status} ({len(results)}/{total}): {told}; {settings}", file=sys.stderr)


def leaderboard(results: Sequence[TrialResult], objective: Objective) -> str:
    """The trials, best first as the objective has it, as a table."""
    order = sorted(results, key=lambda result: score(result, objective), reverse=True)
    metric, names = objective.metric, list(results[0].settings)
    lines = ["  ".join([f"{'trial':<6}", f"{metric:>10}", *(f"{name:>18}" for name in names), "run"])]
    for result in order:
        value = result.metrics.get(metric)
        cells = [f"{_short(result.settings[name]):>18}" for name in names]
        shown = f"{value:>10.4f}" if value is not None else f"{result.status:>10}"
        lines.append("  ".join([f"{result.number:<6}", shown, *cells, result.run_id]))
    return "\n".join(lines)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _record(context: Context, run_id: str, results: Sequence[TrialResult], best: TrialResult, metric: str) -> None:
    """The search's own record: leaderboard, best trial, and an end."""
    client = client_for(context.tracking)
    table = io.StringIO()
    writer = csv.writer(table)
    names = list(best.settings)
    writer.writerow(["trial", "run_id", "status", metric, *names])
    for result in results:
        writer.writerow(
            [result.number, result.run_id, result.status, result.metrics.get(metric), *map(result.settings.get, names)]
        )
    client.log_text(run_id, table.getvalue(), "leaderboard.csv")
    for name, value in best.metrics.items():
        client.log_metric(run_id, f"best/{name}", value)
    end_run(
        context.tracking,
        run_id,
        "FINISHED",
        {"trainplane.best_run": best.run_id, "trainplane.best_trial": str(best.number)},
    )


def pin_best(results: Sequence[TrialResult], best: TrialResult, *, by: str) -> None:
    """Retention leaves the checkpoint of the best trial alone, whatever its run does next; those it beat are let go."""
    for result in results:
        if result.checkpoint and result.checkpoint != best.checkpoint:
            folder, _, key = result.checkpoint.rpartition("/")
            unpin(open_store(folder), key, by=by)
    folder, _, key = best.checkpoint.rpartition("/")
    pin(open_store(folder), key, by=by)


def _register(file: SearchFile, context: Context, best: TrialResult) -> dict[str, str] | None:
    if file.search.register_as is None:
        return None
    from jobs.registering import register_checkpoint

    version = register_checkpoint(context, best.checkpoint, name=file.search.register_as, run_id=best.run_id)
    return {"name": file.search.register_as, "version": version}


def _said(registered: dict[str, str] | None) -> str:
    return f"\nbest trial registered as {registered['name']} version {registered['version']}" if registered else ""
