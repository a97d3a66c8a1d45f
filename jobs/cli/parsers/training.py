"""Arguments of `isnet train`, `isnet plan` and `isnet tune`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, group, preset


def train(commands: Any) -> None:
    """Adds `isnet train`."""
    parser = command(commands, "train", "commands.train:train", "one run; resumes the run if it exists")
    preset(parser, "PRESET")
    # By default a run of the same settings is resumed.
    parser.add_argument("--fresh", action="store_true", help="start a new run instead of resuming")


def plan(commands: Any) -> None:
    """Adds `isnet plan`."""
    actions = group(commands, "plan", "resources of a command and reasons to refuse it; starts nothing")
    train = command(
        actions,
        "train",
        "commands.plan:plan_train",
        "workers, memory, bytes, steps, time and cost of a run; exit 2: refused",
    )
    preset(train, "PRESET")
    train.add_argument("--fresh", action="store_true", help="plan a new run instead of resuming")
    tune = command(
        actions,
        "tune",
        "commands.plan:plan_tune",
        "upper bounds on trials, steps and time of a search; exit 2: refused",
    )
    preset(tune, "SEARCH", kind="searches")
    sources = ((train, "the rate of the last similar run"), (tune, "that of its own trials, or such a run"))
    for parser, source in sources:
        # Times the hardware on which it is typed.
        parser.add_argument(
            "--measure", action="store_true", help=f"time a few steps here, with as many ranks (default: {source})"
        )


def tune(commands: Any) -> None:
    """Adds `isnet tune`."""
    parser = command(
        commands,
        "tune",
        "commands.tune:tune",
        "one search: many runs under one parent; `tune show`: its progress; `tune list`: all searches",
        usage="isnet tune [-h] [options] [show] SEARCH [a.b=c …]\n       isnet tune list",
    )
    preset(parser, "SEARCH", kind="searches")
