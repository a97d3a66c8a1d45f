"""Arguments of `isnet train`, `isnet plan` and `isnet tune`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, group, preset


def train(commands: Any) -> None:
    parser = command(commands, "train", "commands.train:train", "one run; goes on with the run it finds")
    preset(parser, "PRESET")
    parser.add_argument("--fresh", action="store_true", help="start a new run instead of going on")


def plan(commands: Any) -> None:
    actions = group(commands, "plan", "what a command would take and why it would be refused; starts nothing")
    train = command(
        actions,
        "train",
        "commands.plan:plan_train",
        "workers, memory, bytes, steps, time and cost of a run; exit 2: refused",
    )
    preset(train, "PRESET")
    train.add_argument("--fresh", action="store_true", help="of a new run instead of going on")
    train.add_argument(
        "--measure", action="store_true", help="time a few real steps here (default: the last run like it)"
    )

    tune = command(
        actions,
        "tune",
        "commands.plan_tune:plan_tune",
        "trials, steps and time of a search at most; exit 2: refused",
    )
    preset(tune, "SEARCH")


def tune(commands: Any) -> None:
    parser = command(
        commands,
        "tune",
        "commands.tune:tune",
        "one search: many runs under one parent; `isnet tune show SEARCH`: how it stands, by its journal",
    )
    preset(parser, "SEARCH")
