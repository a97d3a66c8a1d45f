"""Arguments of `isnet train`, `isnet plan` and `isnet tune`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, count, group, positive, preset


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
    _simulate(actions)
    sources = ((train, "the rate of the last similar run"), (tune, "that of its own trials, or such a run"))
    for parser, source in sources:
        # Times the hardware on which it is typed.
        parser.add_argument(
            "--measure", action="store_true", help=f"time a few steps here, with as many ranks (default: {source})"
        )


def _simulate(actions: Any) -> None:
    parser = command(
        actions,
        "simulate",
        "commands.plan:plan_simulate",
        "time, cost and bottleneck of a run on more GPUs than are here, from measured parts",
    )
    preset(parser, "PRESET")
    parser.add_argument("--gpus", type=count, default=64, metavar="N", help="default 64")
    parser.add_argument("--nodes", type=count, metavar="N", help="default: one for every 8 GPUs")
    parser.add_argument("--pictures", type=count, metavar="N", help="that the run sees; default those of the preset")
    parser.add_argument("--bench", metavar="FILE", help="bench-gpu.json, whose best step is taken")
    numbers = {
        "--tflops": (100.0, "of a GPU in a step, where --bench is not given"),
        "--link": (150.0, "GB/s between the GPUs of a node"),
        "--network": (10.0, "GB/s of a node to the others"),
        "--store": (5.0, "GB/s of the store"),
        "--host": (1.0, "GB/s of the store to one node"),
        "--requests": (5500.0, "GETs a second that the store takes"),
        "--decode": (400.0, "pictures a second of a loader process"),
        "--picture-kb": (60.0, "of a stored picture"),
        "--start": (120.0, "seconds until a rank can begin"),
        "--node-hours": (2000.0, "hours of a node between two failures"),
    }
    for name, (default, what) in numbers.items():
        parser.add_argument(name, type=positive, default=default, metavar="X", help=f"{what}, default {default:g}")


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
