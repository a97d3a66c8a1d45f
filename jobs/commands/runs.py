"""`isnet runs list|show|sync|reap`: recorded runs."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jobs.cli.main import emit
from jobs.evaluation import pending_results
from jobs.evaluation.model_address import run_id_of
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.config.canonical import flatten
from trainplane.errors import RunFailed, UserError
from trainplane.notify.notifier import Notifier
from trainplane.notify.run_events import run_found_dead
from trainplane.tracking.heartbeat import fail_stale_runs
from trainplane.tracking.local.lists import FoundRun
from trainplane.tracking.run_record import RunRecord
from trainplane.tracking.search_runs import Conditions, search_runs

# The parameter with what was typed (`trainplane.train.run_page`, which imports what only training needs).
TYPED = "typed"
# Pause between two searches for dead runs with `--wait`.
REAP_EVERY_S = 30.0


def list_runs(args: argparse.Namespace, context: Context) -> int:
    """Lists the newest runs, of all experiments or of one."""
    server = context.tracking_server
    # Dead runs are closed first, so that the list is right. Where only reading is allowed, it shows what is recorded.
    with suppress(UserError, RunFailed):
        fail_stale_runs(server, context.home)
    result = search_runs(
        server,
        limit=args.limit or None,
        conditions=Conditions(experiment=args.experiment, status=args.status, search=args.search),
    )
    runs = [_row(run, result.experiments[run.experiment_id]) for run in result.runs]
    widths = {field: max((len(run[field]) for run in runs), default=0) for field in ("experiment", "name")}
    lines = [
        f"{r['run_id']}  {r['status']:<9} {r['started']}  {r['experiment']:<{widths['experiment']}}  "
        f"{r['name']:<{widths['name']}}  {_psnr(r['metrics'])}".rstrip()
        for r in runs
    ]
    if not lines:
        suffix = " that fit" if any((args.experiment, args.status, args.search)) else ""
        lines = [f"no runs{suffix} yet; start the first one with `{command_line('train', 'demo')}`"]
    # Records on this disk that MLflow does not have yet.
    waiting = [asdict(spool) for spool in pending_results.waiting(context)]
    lines += [
        f"{spool['records']} records of {spool['run_id']} wait here for {spool['tracking'] or 'an unknown address'}"
        for spool in waiting
    ]
    if result.num_more:
        more = f"{result.num_more}{'' if result.is_counted else ' or'} more"
        lines.append(f"{len(runs)} newest runs; {more}, older: {_listing(args, limit='0')}")
    payload = {"runs": runs, "more": result.num_more, "waiting": waiting}
    emit(args, payload, "\n".join(lines))
    return 0


def _listing(args: argparse.Namespace, *, limit: str) -> str:
    """Command line of the same list with another limit."""
    options = {"--experiment": args.experiment, "--status": args.status, "--search": args.search, "--limit": limit}
    return command_line("runs", "list", *(word for pair in options.items() if pair[1] is not None for word in pair))


def _row(run: FoundRun, experiment: str) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "name": run.name,
        "experiment": experiment,
        "status": run.status,
        "started": datetime.fromtimestamp(run.start_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
        "metrics": {key: value for key, value in run.metrics.items() if key.startswith("val/")},
    }


def _psnr(metrics: dict[str, float]) -> str:
    return f"val psnr {metrics['val/psnr']:.2f} dB" if "val/psnr" in metrics else ""


def show(args: argparse.Namespace, context: Context) -> int:
    """Shows the settings, metrics and status of a run."""
    run = RunRecord(context.tracking_server, run_id_of(args.run, context)).run
    # MLflow's own tags about its artifacts are long and of no interest.
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.log")}
    saved, stored = saved_state(tags)
    settings = current_settings(run.data.params, stored, tags.get("trainplane.typed"))
    payload = {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "saved_step": saved,
        "params": dict(run.data.params),
        "settings": settings,
        "metrics": dict(run.data.metrics),
        "tags": tags,
    }
    lines = [f"run {run.info.run_id} ({run.info.run_name}): {run.info.status}"]
    if saved is not None:
        lines.append(f"saved: step {saved}{f' of {total}' if (total := settings.get('train.steps')) else ''}")
    for title, values in (("settings", settings), ("metrics", run.data.metrics), ("record", tags)):
        lines.append(f"{title}:")
        lines += [
            f"  {key:<28} {str(value).splitlines()[0] if str(value) else ''}" for key, value in sorted(values.items())
        ]
    emit(args, payload, "\n".join(lines))
    return 0


def saved_state(tags: Mapping[str, str]) -> tuple[int | None, dict[str, Any]]:
    """Step and settings of the newest checkpoint.

    None and {} where there is none, or the store is away.
    """
    if (folder := tags.get("trainplane.checkpoints")) is None:
        return None, {}
    # Imports torch, which lists do without.
    from trainplane.storage import StorageError, open_store
    from trainplane.train.checkpoint.store import newest_first, read_meta

    try:
        store = open_store(folder)
        newest = next(newest_first(store), None)
        return (newest.step, flatten(read_meta(store, newest)["config"])) if newest else (None, {})
    except (UserError, RunFailed, StorageError, OSError, LookupError):
        return None, {}


def current_settings(recorded: Mapping[str, Any], stored: Mapping[str, Any], typed: str | None) -> dict[str, Any]:
    """Settings that a run goes on with.

    Args:
        recorded: settings by dotted name that MLflow has, as the run began.
        stored: settings in its newest checkpoint, by dotted name.
        typed: words that its last attempt was started with.
    """
    settings = dict(recorded)
    for name in settings.keys() & stored.keys():
        value = stored[name]
        settings[name] = value if isinstance(value, str) else str(value)
    for name, _, value in (word.partition("=") for word in (typed or "").split()):
        if name in settings and value:
            settings[name] = value
    return settings | ({TYPED: typed} if typed and TYPED in settings else {})


def sync(args: argparse.Namespace, context: Context) -> int:
    """Sends the records that are still spooled here."""
    outcomes = pending_results.sync_all(context, also=args.of)
    runs = {
        run_id: {"sent": outcome.sent, "left": outcome.unsent, "error": outcome.error}
        for run_id, outcome in outcomes.items()
    }
    num_sent = sum(outcome.sent for outcome in outcomes.values())
    num_unsent = sum(outcome.unsent for outcome in outcomes.values())
    lines = [f"{num_sent} records sent, {num_unsent} left"]
    lines += [f"{run_id}: {outcome.error}" for run_id, outcome in outcomes.items() if outcome.error]
    # Records for other servers wait until `--of` names their address.
    elsewhere = Counter(
        spool.tracking or "an unknown address"
        for spool in pending_results.waiting(context)
        if spool.run_id not in outcomes
    )
    lines += [
        f"{n} runs wait for {address}; {command_line('runs', 'sync', '--of', address)} sends them here instead"
        for address, n in elsewhere.items()
    ]
    payload = {"runs": runs, "sent": num_sent, "left": num_unsent, "elsewhere": dict(elsewhere)}
    emit(args, payload, "\n".join(lines))
    return 1 if num_unsent or any(outcome.error for outcome in outcomes.values()) else 0


def reap_runs(args: argparse.Namespace, context: Context) -> int:
    """Closes the runs whose process has died, on any host."""
    deadline = time.monotonic() + args.wait
    reaped = fail_stale_runs(context.tracking_server, context.home)
    while time.monotonic() < deadline:
        time.sleep(min(REAP_EVERY_S, max(0.0, deadline - time.monotonic())))
        reaped += fail_stale_runs(context.tracking_server, context.home)
    for run_id in reaped:
        Notifier(context).tell(run_found_dead(run_id))
    emit(args, {"reaped": reaped}, "\n".join(f"{run_id} closed" for run_id in reaped) or "nothing to close")
    return 0
