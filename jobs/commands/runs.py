"""`isnet runs list|show|sync|reap`, `isnet ui`: recorded runs and their pages."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from jobs.cli.main import emit
from jobs.evaluation import pending_results
from trainplane.cluster.context import Context
from trainplane.cluster.ports import check_port
from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.errors import RunFailed
from trainplane.tracking.heartbeat import fail_stale_runs
from trainplane.tracking.run_record import RunRecord

# Pause between two searches for dead runs with `--wait`.
REAP_EVERY_S = 30.0


def list_runs(args: argparse.Namespace, context: Context) -> int:
    """Lists the runs of all experiments, newest first."""
    # Dead runs are closed first, so that the list is right.
    fail_stale_runs(context.tracking_server, context.home)
    client = context.tracking_server.client
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    newest = client.search_runs(list(experiments), order_by=["attributes.start_time DESC"], max_results=200)
    runs = [_row(run, experiments[run.info.experiment_id]) for run in newest]
    lines = [
        f"{r['run_id']}  {r['status']:<9} {r['started']}  {r['experiment']:<16} {r['name']:<28} {_psnr(r['metrics'])}"
        for r in runs
    ]
    # Records on this disk that MLflow does not have yet.
    waiting = [asdict(spool) for spool in pending_results.waiting(context)]
    lines += [f"{spool['records']} records of {spool['run_id']} wait here for {spool['tracking']}" for spool in waiting]
    emit(args, {"runs": runs, "waiting": waiting}, "\n".join(lines) or "no runs yet; start one with `isnet train demo`")
    return 0


def _row(run: Any, experiment: str) -> dict[str, Any]:
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "experiment": experiment,
        "status": run.info.status,
        "started": datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M"),
        "metrics": {key: value for key, value in run.data.metrics.items() if key.startswith("val/")},
    }


def _psnr(metrics: dict[str, float]) -> str:
    return f"val psnr {metrics['val/psnr']:.2f} dB" if "val/psnr" in metrics else ""


def show(args: argparse.Namespace, context: Context) -> int:
    """Shows the settings, metrics and status of a run."""
    run = RunRecord(context.tracking_server, args.run).run
    # MLflow's own tags about its artifacts are long and of no interest.
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.log")}
    payload = {
        "run_id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "params": dict(run.data.params),
        "metrics": dict(run.data.metrics),
        "tags": tags,
    }
    lines = [f"run {run.info.run_id} ({run.info.run_name}): {run.info.status}"]
    for title, values in (("settings", run.data.params), ("metrics", run.data.metrics), ("record", tags)):
        lines.append(f"{title}:")
        lines += [
            f"  {key:<28} {str(value).splitlines()[0] if str(value) else ''}" for key, value in sorted(values.items())
        ]
    emit(args, payload, "\n".join(lines))
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
    lines = [f"{num_sent} records sent, {num_unsent} left"]
    lines += [f"{run_id}: {outcome.error}" for run_id, outcome in outcomes.items() if outcome.error]
    # Records for other servers wait until `--of` names their address.
    elsewhere = Counter(spool.tracking for spool in pending_results.waiting(context) if spool.run_id not in outcomes)
    lines += [
        f"{n} runs wait for {address}; --of {address} sends them here instead" for address, n in elsewhere.items()
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
    emit(args, {"reaped": reaped}, "\n".join(f"{run_id} closed as FAILED" for run_id in reaped) or "nothing to close")
    return 0


def ui(args: argparse.Namespace, context: Context) -> int:
    """Serves MLflow's pages on loopback until interrupted."""
    # A server has its own pages.
    if context.tracking.startswith("http"):
        emit(args, {"address": context.tracking}, f"the pages of context {context.name!r}: {context.tracking}")
        return 0
    # With --port 0 a free port is chosen here, so that the address can be printed.
    port = check_port(args.port)
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", context.tracking, "--default-artifact-root", context.artifacts]
    # By default MLflow 3 opens its pages for language models.
    pages = f"{address}/#/experiments?workflowType=machine_learning"
    emit(args, {"address": address, "pages": pages}, f"{pages} (Ctrl-C ends it)")
    # The server's job runners are for language models, and take a gigabyte of memory.
    server = subprocess.Popen(
        command, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, preexec_fn=die_with_parent
    )
    try:
        status = server.wait()
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        return 0
    if status:
        raise RunFailed(f"the MLflow server ended with status {status}")
    return 0
