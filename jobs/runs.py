"""`isnet runs …` and `isnet ui`: what was run, and MLflow's pages to look at it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

from jobs.cli import emit
from trainplane.cluster.context import resolve
from trainplane.cluster.object_store import claim_port, die_with_parent
from trainplane.errors import RunFailed, UserError
from trainplane.tracking.client import client_for, unreachable
from trainplane.tracking.run import reap
from trainplane.tracking.tracker import sync as send_spooled


def list_runs(args: argparse.Namespace) -> int:
    """`isnet runs list`: newest first, over all experiments."""
    context = resolve(args.context)
    context.activate()
    reap(context.tracking)
    client = client_for(context.tracking)
    experiments = {e.experiment_id: e.name for e in client.search_experiments()}
    found = client.search_runs(list(experiments), order_by=["attributes.start_time DESC"], max_results=200)
    runs = [_row(run, experiments[run.info.experiment_id]) for run in found]
    lines = [
        f"{r['run_id']}  {r['status']:<9} {r['started']}  {r['experiment']:<16} {r['name']:<28} {_psnr(r['metrics'])}"
        for r in runs
    ]
    emit(args, {"runs": runs}, "\n".join(lines) or "no runs yet; start one with `isnet train demo`")
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


def show(args: argparse.Namespace) -> int:
    """`isnet runs show RUN`: what it was made of and how it ended."""
    context = resolve(args.context)
    context.activate()
    run = find_run(context.tracking, args.run)
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


def find_run(tracking: str, run_id: str) -> Any:
    """The MLflow run of that id."""
    from mlflow.exceptions import MlflowException

    client = client_for(tracking)
    try:
        return client.get_run(run_id.removeprefix("runs:/"))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST" or error.error_code == "INVALID_PARAMETER_VALUE":
            raise UserError(f"no run {run_id!r} here; `isnet runs list` shows those there are") from error
        raise unreachable(tracking, error) from error


def sync(args: argparse.Namespace) -> int:
    """`isnet runs sync`: send what earlier processes left in their spools."""
    context = resolve(args.context)
    context.activate()
    outcomes = send_spooled(context.home / "spool", context.tracking)
    runs = {run_id: {"sent": outcome.sent, "left": outcome.unsent} for run_id, outcome in outcomes.items()}
    left = sum(outcome["left"] for outcome in runs.values())
    sent = sum(outcome["sent"] for outcome in runs.values())
    emit(args, {"runs": runs, "sent": sent, "left": left}, f"{sent} records sent, {left} left")
    return 1 if left else 0


def ui(args: argparse.Namespace) -> int:
    """`isnet ui`: MLflow's pages on loopback until interrupted."""
    context = resolve(args.context)
    context.activate()
    if context.tracking.startswith("http"):
        emit(args, {"address": context.tracking}, f"the pages of context {context.name!r}: {context.tracking}")
        return 0
    address = f"http://127.0.0.1:{args.port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(args.port)]
    command += ["--workers", "1", "--backend-store-uri", context.tracking, "--default-artifact-root", context.artifacts]
    claim_port(args.port)
    emit(args, {"address": address}, f"{address} (Ctrl-C ends it)")
    # The server's job runners serve judges of language models, at a gigabyte of memory.
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
