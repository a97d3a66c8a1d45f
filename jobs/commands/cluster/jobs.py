"""`isnet jobs list|show|logs|stop`: jobs on the context's Ray cluster."""

from __future__ import annotations

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import Any

from jobs.cli.format import duration
from jobs.cli.main import emit
from jobs.cli.streams import notify, write_report
from trainplane.cluster.context import Context
from trainplane.cluster.jobs import client, status
from trainplane.cluster.jobs import logs as following
from trainplane.cluster.jobs.runs import main_runs, runs_of_jobs
from trainplane.cluster.jobs.submit import STOP_WAIT_S
from trainplane.command_line import command_line
from trainplane.errors import CLI, RunFailed, UserError
from trainplane.tracking.stopped import close_as_stopped


def list_jobs(args: argparse.Namespace, context: Context) -> int:
    """Lists the jobs, newest first."""
    states = status.job_states(client.connect(context))[::-1]
    runs = _runs(context) if states else {}
    lines = [_line(state, runs.get(state.job)) for state in states]
    text = "\n".join(lines) or f"no jobs; submit one: {command_line('submit', 'train', 'demo')}"
    emit(args, {"jobs": [job_payload(state, runs.get(state.job)) for state in states]}, text)
    return 0


def show(args: argparse.Namespace, context: Context) -> int:
    """Shows the state of a job."""
    state = status.find_job(client.connect(context), args.job)
    run = _runs(context).get(state.job)
    rows = {
        "job": state.job,
        "status": state.status,
        "command": _command(state),
        "user": state.user,
        "submitted": _time(state.started_ms),
        "ended": _time(state.ended_ms),
        "exit": str(state.exit_status) if state.is_over else "",
        "run": run or "",
        "message": state.message,
        "output": command_line("jobs", "logs", state.job, *([] if state.is_over else ["--follow"])),
    }
    emit(args, job_payload(state, run), "\n".join(f"{name:<11} {value}" for name, value in rows.items() if value))
    return 0


def logs(args: argparse.Namespace, context: Context) -> int:
    """Prints the output of a job, or follows it."""
    connection = client.connect(context)
    state = status.find_job(connection, args.job)
    if args.follow:
        state = follow(args, connection, state.job)
        emit(args, job_payload(state), end_text(state))
        return state.exit_status
    text = following.full_log(connection, state.job)
    emit(args, {"job": state.job, "logs": text}, text.rstrip("\n"))
    return 0


def stop(args: argparse.Namespace, context: Context) -> int:
    """Stops a job; its runs become KILLED, not FAILED."""
    connection = client.connect(context)
    state = status.find_job(connection, args.job)
    since_ms = time.time_ns() // 1_000_000
    was_waiting = state.status == "PENDING"
    connection.stop_job(state.job)
    if was_waiting:
        # Ray ends a waiting job only when its turn comes, or after its time limit for starting.
        state = status.job_state(connection, state.job)
        emit(args, job_payload(state), f"{state.job} will stop: it is still waiting, and ends when its turn comes")
        return 0
    notify(f"job {state.job} saves at the end of its step, for at most {STOP_WAIT_S} s")
    state = status.wait_until_over(connection, state.job, timeout_s=STOP_WAIT_S + 30.0)
    run = None
    try:
        # A job that saved too slowly was killed, and could not close its runs.
        if state.status == "STOPPED":
            runs = runs_of_jobs(context.tracking_server, state.job)
            close_as_stopped(context.tracking_server, runs, since_ms=since_ms)
        run = _runs(context).get(state.job)
    except (UserError, RunFailed) as error:
        notify(f"the job is over; its runs keep their status for now ({error})")
    emit(args, job_payload(state, run), f"{state.job} is {state.status}{f'; run {run}' if run else ''}")
    return 0


def follow(args: argparse.Namespace, connection: Any, job: str, *, wait_s: float = float("inf")) -> status.JobState:
    """Prints a job's output until it ends; Ctrl-C spares it."""
    # With --json, standard output is for the report alone.
    output = sys.stderr if args.json else sys.stdout
    try:
        following.wait_for_start(connection, job, timeout_s=wait_s, emit=notify)
        return following.follow(connection, job, lambda text: write_report(text, output, end=""))
    except KeyboardInterrupt:
        notify(
            f"the job continues; see {command_line('jobs', 'logs', job, '--follow')}, or stop it with "
            f"{command_line('jobs', 'stop', job)}"
        )
        raise


def end_text(state: status.JobState) -> str:
    """Says how a job ended that was followed."""
    # The message ends with the log, which is printed already.
    reason = f" ({state.message.partition(', last available logs')[0]})" if state.exit_status else ""
    return f"job {state.job}: {state.status}{reason}"


def job_payload(state: status.JobState, run: str | None = None) -> dict[str, object]:
    """Returns a job's part of the output of `--json`."""
    return {
        "job": state.job,
        "status": state.status,
        "message": state.message,
        "command": _command(state),
        "user": state.user or None,
        "submitted_ms": state.started_ms,
        "ended_ms": state.ended_ms or None,
        "run_id": run,
        "entrypoint": state.entrypoint,
        "exit": state.exit_status if state.is_over else None,
    }


def _runs(context: Context) -> dict[str, str]:
    """Returns the main run of each job, if MLflow answers."""
    try:
        return main_runs(runs_of_jobs(context.tracking_server))
    except (UserError, RunFailed) as error:
        notify(f"the jobs' runs are not shown: {error}")
        return {}


def _command(state: status.JobState) -> str:
    """Returns the command as it was typed."""
    # A job of another program has its command line alone.
    return f"{CLI} {state.words}" if state.words else state.entrypoint


def _line(state: status.JobState, run: str | None) -> str:
    until_ms = state.ended_ms or time.time_ns() // 1_000_000
    took = duration((until_ms - state.started_ms) / 1000) if state.started_ms else "-"
    cells = [state.job, f"{state.status:<9}", _time(state.started_ms), f"{took:>8}", f"{state.user or '-':<10}"]
    return "  ".join([*cells, (run or "-")[:8].ljust(8), _command(state)])


def _time(milliseconds: int | None) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}" if milliseconds else ""
