"""`isnet runs list|show|sync|reap`: recorded runs."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict

from jobs.api.recorded_runs import ListedRun, export_run, find_runs, listed
from jobs.cli.format import quantity
from jobs.cli.main import emit
from jobs.evaluation import pending_results
from jobs.evaluation.model_address import run_id_of
from jobs.tracking.current_settings import current_settings, saved_state
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.notify.notifier import Notifier
from trainplane.notify.run_events import run_found_dead
from trainplane.tracking.heartbeat import fail_stale_runs
from trainplane.tracking.query.select import FACTS
from trainplane.tracking.run_record import RunRecord
from trainplane.tracking.search_runs import Conditions
from trainplane.tracking.spool.ledger import DASHBOARD

# Pause between two searches for dead runs with `--wait`.
REAP_EVERY_S = 30.0


def list_runs(args: argparse.Namespace, context: Context) -> int:
    """Lists the newest runs, or those that a condition selects."""
    conditions = Conditions(experiment=args.experiment, status=args.status, search=args.search)
    result = find_runs(context, args.where, args.sort, limit=args.limit or None, conditions=conditions)
    runs = listed(result)
    widths = {name: max((len(getattr(run, name)) for run in runs), default=0) for name in ("experiment", "name")}
    lines = [
        f"{run.run_id}  {run.status:<9} {run.started}  {run.experiment:<{widths['experiment']}}  "
        f"{run.name:<{widths['name']}}  {_values(run)}".rstrip()
        for run in runs
    ]
    if not lines:
        lines = [f"no runs yet; start the first one with `{command_line('train', 'demo')}`"]
        if any((args.experiment, args.status, args.search, args.where)):
            lines = [f"no runs that fit; all of them: {command_line('runs', 'list', '--limit', '0')}"]
    # Records on this disk that MLflow does not have yet.
    waiting = [asdict(spool) for spool in pending_results.waiting(context)]
    lines += [
        f"{quantity(spool['records'], 'record')} of {spool['run_id']} still here, "
        f"for {spool['tracking'] or 'an unknown address'}"
        for spool in waiting
    ]
    if result.num_more:
        more = f"{result.num_more}{'' if result.is_counted else ' or'} more"
        order, rest = ("first", "") if args.sort else ("newest", ", older")
        lines.append(f"{len(runs)} {order} runs; {more}{rest}: {_listing(args, limit='0')}")
    payload = {"runs": [asdict(run) for run in runs], "more": result.num_more, "waiting": waiting}
    emit(args, payload, "\n".join(lines))
    return 0


def _listing(args: argparse.Namespace, *, limit: str) -> str:
    """Command line of the same list with another limit."""
    options = {"--experiment": args.experiment, "--status": args.status, "--search": args.search}
    options |= {"--where": args.where, "--sort": args.sort, "--limit": limit}
    return command_line("runs", "list", *(word for pair in options.items() if pair[1] is not None for word in pair))


def _values(run: ListedRun) -> str:
    """Values that were asked for, and the PSNR."""
    others = {name: value for name, value in run.values.items() if name not in FACTS}
    texts = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in others.items()]
    if "val/psnr" in run.metrics:
        texts = [text for text in texts if not text.startswith("val/psnr ")]
        texts.insert(0, f"val psnr {run.metrics['val/psnr']:.2f} dB")
    return "  ".join(texts)


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
    texts = {key: f"{value:.6g}" for key, value in _by_interest(run.data.metrics).items()}
    for title, values in (
        ("settings", dict(sorted(settings.items()))),
        ("metrics", texts),
        ("record", dict(sorted(tags.items()))),
    ):
        lines.append(f"{title}:")
        lines += [f"  {key:<28} {str(value).splitlines()[0] if str(value) else ''}" for key, value in values.items()]
    emit(args, payload, "\n".join(lines))
    return 0


def _by_interest(metrics: Mapping[str, float]) -> dict[str, float]:
    """Sorts metrics: validation, training, others.

    The dashboard repeats some of them, and is left out.
    """
    groups = ("val/", "train/")
    others = sorted(key for key in metrics if not key.startswith((DASHBOARD, *groups)))
    first = [key for group in groups for key in sorted(metrics) if key.startswith(group)]
    return {key: metrics[key] for key in (*first, *others)}


def export(args: argparse.Namespace, context: Context) -> int:
    """Writes the curves of a run for other programs."""
    exported = export_run(args.run, args.to, args.output, context=context)
    text = f"{exported.points} points of {exported.metrics} metrics in {exported.path}"
    emit(args, {**asdict(exported), "path": str(exported.path)}, text)
    return 0


def sync(args: argparse.Namespace, context: Context) -> int:
    """Sends the records that are still spooled here."""
    outcomes = pending_results.sync_all(context, also=args.of)
    runs = {
        run_id: {"sent": outcome.sent, "left": outcome.unsent, "error": outcome.error}
        for run_id, outcome in outcomes.items()
    }
    num_sent = sum(outcome.sent for outcome in outcomes.values())
    num_unsent = sum(outcome.unsent for outcome in outcomes.values())
    lines = [f"{quantity(num_sent, 'record')} sent, {num_unsent} left"]
    lines += [f"{run_id}: {outcome.error}" for run_id, outcome in outcomes.items() if outcome.error]
    # Records for other servers wait until `--of` names their address.
    elsewhere = Counter(
        spool.tracking or "an unknown address"
        for spool in pending_results.waiting(context)
        if spool.run_id not in outcomes
    )
    lines += [
        f"{quantity(n, 'run')} for {address}; "
        f"{command_line('runs', 'sync', '--of', address)} sends what they recorded here instead"
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
