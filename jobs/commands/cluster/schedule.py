"""`isnet schedule add|list|remove`: jobs that are submitted again and again."""

from __future__ import annotations

import argparse
import shlex
import time
from datetime import UTC, datetime

from jobs.cli.main import emit
from jobs.cluster.portable_args import check_context
from jobs.commands.cluster.queue import template_of
from jobs.commands.cluster.submit import job_command
from trainplane.cluster.context import Context
from trainplane.cluster.shared_queue.schedule import Schedule, checked_cron, checked_name, next_moment
from trainplane.cluster.shared_queue.store import SharedQueue
from trainplane.command_line import command_line
from trainplane.errors import CLI, UserError, nearest


def add(args: argparse.Namespace, context: Context) -> int:
    """Adds a recurring job, or replaces it."""
    # Mistakes first: nothing is stored for a schedule that is never met.
    name, cron = checked_name(args.name), checked_cron(args.cron, now=time.time())
    check_context(context)
    queue = SharedQueue.of(context)
    command = job_command(list(args.words), context)
    template = template_of(context, command, priority=args.priority, files=None, cpus=0.0)
    schedule = Schedule(name, cron, template, since=time.time())
    queue.set_schedule(schedule)
    text = (
        f"{name}: {CLI} {shlex.join(command)}, next at {_when(schedule)}; the code is that of now, so add it again "
        f"after a change; it is submitted by {command_line('queue', 'serve')}, or by whoever follows a job then"
    )
    emit(args, _payload(schedule), text)
    return 0


def list_schedules(args: argparse.Namespace, context: Context) -> int:
    """Lists recurring jobs."""
    schedules = list(SharedQueue.of(context).schedules())
    lines = [
        f"{each.name:<20} {each.cron:<16} next {_when(each)}  {CLI} {shlex.join(each.template.words)}"
        for each in schedules
    ]
    emit(args, {"schedules": [_payload(each) for each in schedules]}, "\n".join(lines) or "no recurring jobs")
    return 0


def remove(args: argparse.Namespace, context: Context) -> int:
    """Removes a recurring job."""
    queue = SharedQueue.of(context)
    names = [schedule.name for schedule in queue.schedules()]
    if args.name not in names:
        hint = nearest(args.name, names) if names else "; there are none"
        raise UserError(f"{args.name!r} is no recurring job{hint}")
    queue.remove_schedule(args.name)
    emit(args, {"removed": args.name}, f"{args.name} is not submitted any more")
    return 0


def _when(schedule: Schedule) -> str:
    return datetime.fromtimestamp(next_moment(schedule.cron, time.time()), UTC).strftime("%Y-%m-%d %H:%M UTC")


def _payload(schedule: Schedule) -> dict[str, object]:
    return {
        "name": schedule.name,
        "cron": schedule.cron,
        "command": f"{CLI} {shlex.join(schedule.template.words)}",
        "priority": schedule.template.priority,
        "next": _when(schedule),
    }
