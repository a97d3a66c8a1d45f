"""Arguments of `isnet runs` and `isnet ui`."""

from __future__ import annotations

from typing import Any

from jobs.cli.arg_types import command, count, group, port, settings, size, whole

# Of MLflow. A run that was stopped, or asked to stop, is KILLED; FAILED is one that went wrong.
STATUSES = ("RUNNING", "FINISHED", "FAILED", "KILLED")
_RUN_HELP = "run id or its beginning, or a model: NAME, NAME@ALIAS or NAME/VERSION, for the run that made it"


def runs(commands: Any) -> None:
    """Adds `isnet runs` and `isnet ui`."""
    actions = group(commands, "runs", "recorded runs")
    listing = command(actions, "list", "commands.runs:list_runs", "runs, newest first")
    listing.add_argument("--limit", type=whole, default=50, metavar="N", help="at most N, default 50; 0: all")
    listing.add_argument(
        "--where",
        metavar="CONDITION",
        help="on metrics, settings and facts, such as 'val/psnr > 24 and model.blocks = 4 and status = FINISHED'",
    )
    listing.add_argument(
        "--sort", metavar="NAME", help="by a metric or a setting, the largest first; NAME:asc: the smallest first"
    )
    # All conditions together.
    listing.add_argument("--experiment", metavar="NAME", help="of this experiment of MLflow only")
    listing.add_argument("--status", type=str.upper, choices=STATUSES, help="with this status only")
    listing.add_argument("--search", metavar="SEARCH", help="trials of this search only: its name or its run")
    show = command(actions, "show", "commands.runs:show", "settings, metrics and status of a run")
    show.add_argument("run", metavar="RUN", help=_RUN_HELP)
    compare = command(
        actions, "compare", "commands.compare:compare", "settings that differ, metrics and curves side by side"
    )
    compare.add_argument("runs", nargs="+", metavar="RUN", help=_RUN_HELP)
    compare.add_argument("--html", metavar="FILE", help="also write a page with charts and held-out samples")
    export = command(
        actions, "export", "commands.runs:export", "write every point of a run's curves, for other programs"
    )
    export.add_argument("run", metavar="RUN", help=_RUN_HELP)
    export.add_argument("--to", choices=("csv", "tensorboard"), default="csv", help="default csv: a row a point")
    export.add_argument("-o", "--output", metavar="PATH", help="file or folder (default: run- and 8 letters of the id)")
    reproduce = command(
        actions,
        "reproduce",
        "commands.reproduce:reproduce",
        "write how to run it again; check that its inputs still exist",
    )
    reproduce.add_argument("run", metavar="RUN", help=_RUN_HELP)
    reproduce.add_argument("-o", "--output", metavar="DIR", help="default reproduce- and the id's first 8 letters")
    branch = command(
        actions, "branch", "commands.branch:branch", "a new run from the whole state of a run, with changed settings"
    )
    branch.add_argument("run", metavar="RUN", help=_RUN_HELP)
    branch.add_argument("--step", type=whole, metavar="N", help="checkpoint to begin at, default the newest")
    branch.add_argument("--fresh", action="store_true", help="start a new run instead of resuming this branch")
    settings(branch)
    # Repairs after failures of MLflow or of a process.
    sync = command(actions, "sync", "commands.runs:sync", "send the records still spooled on this machine")
    sync.add_argument("--of", metavar="ADDRESS", help="also the records for another tracking address")
    reap = command(actions, "reap", "commands.runs:reap_runs", "close the runs whose process has died, on any host")
    # The lease of a run on another host has to expire first.
    reap.add_argument(
        "--wait",
        type=count,
        default=0,
        metavar="S",
        help="repeat for this many seconds, default 0; a run of another host counts as dead after about 450",
    )
    _add_gc(commands)
    ui = command(commands, "ui", "commands.ui:ui", "serve MLflow's pages on loopback until interrupted")
    ui.add_argument("--port", type=port, default=5000, metavar="N", help="default 5000")


def _add_gc(commands: Any) -> None:
    gc = command(commands, "gc", "commands.gc:gc", "what nothing needs any more: a plan, and with --yes its removal")
    gc.add_argument(
        "address", nargs="*", metavar="WHAT", help="only these: a run's folder, DATASET@N, models:/NAME/N, a cache"
    )
    gc.add_argument(
        "--older-than", type=whole, metavar="DAYS", help="unchanged for so long, default 30; 0 where WHAT is named"
    )
    gc.add_argument("--kinds", metavar="A,B", help="of runs, datasets, versions, caches, spools; default all")
    gc.add_argument("--min-size", type=size, default=0, metavar="SIZE", help="leave what is smaller, such as 10M")
    gc.add_argument(
        "--unused-datasets",
        action="store_true",
        help="also newest versions of datasets that no run, version or other dataset needs",
    )
    gc.add_argument("--yes", action="store_true", help="remove what the plan names")
