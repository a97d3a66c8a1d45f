"""Arguments of `isnet submit`, `isnet jobs` and `isnet doctor`."""

from __future__ import annotations

import argparse
from typing import Any

from jobs.arguments.words import command, group


def submit(commands: Any) -> None:
    parser = command(commands, "submit", "jobs.submit:submit", "run a command as a job of the context's Ray cluster")
    parser.add_argument("--no-follow", action="store_true", help="return once it is accepted instead of following it")
    parser.add_argument("--again", action="store_true", help="submit although the same job was submitted before")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND …", help="such as: train demo")


def jobs(commands: Any) -> None:
    actions = group(commands, "jobs", "jobs on the context's Ray cluster")
    command(actions, "list", "jobs.submit:list_jobs", "jobs, newest first")
    for name, summary in (("show", "one job's state"), ("logs", "one job's output"), ("stop", "end a job")):
        action = command(actions, name, f"jobs.submit:{name}", summary)
        action.add_argument("job", metavar="JOB")


def doctor(commands: Any) -> None:
    command(commands, "doctor", "jobs.doctor:doctor", "is everything reachable and allowed; what to do where not")
