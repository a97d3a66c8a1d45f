"""Arguments of `isnet submit`, `jobs`, `notify`, `doctor` and `stack`."""

from __future__ import annotations

import argparse
from typing import Any

from jobs.cli.arg_types import command, count, group


def submit(commands: Any) -> None:
    """Adds `isnet submit`."""
    parser = command(
        commands, "submit", "commands.cluster.submit:submit", "run a command as a job of the context's Ray cluster"
    )
    parser.add_argument("--no-follow", action="store_true", help="return once it is accepted instead of following it")
    parser.add_argument("--again", action="store_true", help="submit although the same job waits or runs")
    # Resources that the job gets.
    parser.add_argument("--files", metavar="DIR", help="folder of files for the job's current folder, at most 100 MiB")
    parser.add_argument(
        "--cpus", type=float, default=0, metavar="N", help="the command waits until N processors are free for it"
    )
    parser.add_argument(
        "--priority",
        type=int,
        metavar="N",
        help="take a place in the shared queue, where higher numbers go first and lower ones give way",
    )
    parser.add_argument(
        "--wait",
        type=count,
        default=900,
        metavar="SECONDS",
        help="stop a job that does not start within this time, default 900",
    )
    # Everything behind the options is the command, with options of its own.
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …", help="such as: train demo")


def jobs(commands: Any) -> None:
    """Adds `isnet jobs`."""
    actions = group(commands, "jobs", "jobs on the context's Ray cluster")
    command(actions, "list", "commands.cluster.jobs:list_jobs", "jobs, newest first, with time, user, run and command")
    summaries = {"show": "one job's state", "logs": "one job's output", "stop": "end a job, once its run is saved"}
    for name, summary in summaries.items():
        action = command(actions, name, f"commands.cluster.jobs:{name}", summary)
        action.add_argument("job", metavar="JOB", help="id of a job, or its beginning")
        if name == "logs":
            action.add_argument("--follow", action="store_true", help="until the job is over; exit status: the job's")


def queue(commands: Any) -> None:
    """Adds `isnet queue` and `isnet schedule`."""
    actions = group(commands, "queue", "jobs of the shared queue: priorities, quotas")
    command(actions, "list", "commands.cluster.queue:list_jobs", "jobs that wait or run, first ones first")
    stop = command(actions, "stop", "commands.cluster.queue:stop", "take a job out; one that runs saves first")
    stop.add_argument("job", metavar="JOB", help="id of a job, or its beginning")
    command(actions, "serve", "commands.cluster.queue:serve", "start jobs and let them give way, until interrupted")
    quota = command(actions, "quota", "commands.cluster.queue:quota", "show or set what users may take at once")
    quota.add_argument("--user", metavar="NAME", help="of this user; without it the default of all")
    for name in ("jobs", "cpus", "gpus"):
        quota.add_argument(f"--{name}", type=float, metavar="N", help=f"{name} of running jobs together, 0: no limit")
    plans = group(commands, "schedule", "jobs that are submitted again and again")
    add = command(plans, "add", "commands.cluster.schedule:add", "submit a command at each moment of a schedule")
    add.add_argument("name", metavar="NAME", help="lower case letters, digits and -")
    add.add_argument("cron", metavar="CRON", help="minute, hour, day, month, weekday in UTC, such as '0 3 * * *'")
    add.add_argument("--priority", type=int, default=0, metavar="N", help="place in the shared queue, default 0")
    add.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …", help="such as: train demo")
    command(plans, "list", "commands.cluster.schedule:list_schedules", "recurring jobs, and when they are due")
    remove = command(plans, "remove", "commands.cluster.schedule:remove", "submit it no more; what runs goes on")
    remove.add_argument("name", metavar="NAME")


def notify(commands: Any) -> None:
    """Adds `isnet notify`."""
    actions = group(commands, "notify", "who is told about ends, failures, gates and aliases")
    test = command(actions, "test", "commands.cluster.notify:test", "send an event to each target; exit 1 if one fails")
    test.add_argument("target_name", nargs="?", metavar="TARGET", help="this one only")
    command(actions, "list", "commands.cluster.notify:list_pending", "targets, and events that they have not taken yet")
    sending = command(actions, "send", "commands.cluster.notify:send", "send events that wait; exit 1 if some are left")
    sending.add_argument("--wait", type=count, default=60, metavar="SECONDS", help="try for so long, default 60")


def doctor(commands: Any) -> None:
    """Adds `isnet doctor`."""
    command(commands, "doctor", "commands.doctor:doctor", "check what is reachable and permitted, with remedies")


def stack(commands: Any) -> None:
    """Adds `isnet stack`."""
    actions = group(commands, "stack", "PostgreSQL, an S3 store, MLflow and a Ray cluster on this machine, on loopback")
    up = command(
        actions,
        "up",
        "commands.cluster.stack:up",
        "start what is not up, and write the context `stack` into isnet.toml",
    )
    up.add_argument(
        "--store",
        choices=("ceph", "moto"),
        help="default: the one it has, else Ceph where it is installed, else moto, a mock that keeps nothing",
    )
    up.add_argument("--timeout", type=count, default=180, metavar="SECONDS", help="give up after, default 180")
    command(actions, "status", "commands.cluster.stack:status", "state of each part; exit 1 if one is not up")
    down = command(actions, "down", "commands.cluster.stack:down", "stop all parts; their data stays")
    # Data survives a plain `down`.
    down.add_argument("--wipe", action="store_true", help="remove its data, logs, secrets and context, too")
