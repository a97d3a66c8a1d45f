"""The command `isnet`: from words to the function that carries them out, and from errors to an exit status.

What can be typed stands in `jobs.cli.parsers`; a command's module is imported when it is called, so that `isnet --help`
answers at once. Exit status: 0 done; 1 ran and failed; 2 the user's mistake, nothing was started; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jobs.cli.arg_types import Parser
from jobs.cli.parsers import bench, cluster, data, models, runs, training


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    if rest:
        _take_overrides(parser, args, rest)
    if not hasattr(args, "target"):
        parser.parse_args([*(argv if argv is not None else sys.argv[1:]), "--help"])
    _quiet_third_parties()
    # A polite end is an end: whatever was started is taken down on the way out, as after Ctrl-C.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    module, _, function = args.target.partition(":")

    from isnet.errors import InputError
    from trainplane.errors import RunFailed, UserError

    try:
        with _report_alone(args):
            status = getattr(importlib.import_module(f"jobs.{module}"), function)(args)
    except (UserError, InputError) as error:
        return _say(str(error), 2)
    except RunFailed as error:
        return _say(str(error), 1)
    except BrokenPipeError:
        # Whoever read our output has seen enough (`isnet … | head`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _say(f"interrupted{RESUMABLE.get(args.target, '')}", 130)
    except Exception as error:
        # Whoever had a reason to go on without MLflow has done so: a server that is away, or a database that is locked
        # or full, is no fault of the program.
        if type(error).__module__ != "mlflow.exceptions":
            raise
        from trainplane.tracking.client import reason

        return _say(f"MLflow did not do what it was asked ({reason(error)}); see to it, and type the command again", 1)
    return int(status or 0)


def _take_overrides(parser: Parser, args: argparse.Namespace, rest: list[str]) -> None:
    """Settings that stand behind an option (`train demo --fresh train.steps=9`), which argparse leaves over."""
    if not hasattr(args, "overrides") or any("=" not in word or word.startswith("-") for word in rest):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.overrides += rest


RESUMABLE = {
    **dict.fromkeys(
        ("commands.demo:demo", "commands.train:train", "commands.tune:tune"),
        "; run the same command again to go on from the last checkpoint, where there is one",
    ),
    "commands.inpaint:inpaint": "; run the same command again: a job over prefixes continues after the stored parts",
    "commands.data:pack": "; run the same command again to go on after the shards that are stored",
}


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _say(sentence: str, status: int) -> int:
    print(f"isnet: {sentence}", file=sys.stderr)
    return status


def emit(args: argparse.Namespace, payload: dict[str, Any], text: str) -> None:
    """The report of a command: one JSON object with `--json`, else text. Nothing else goes to standard output."""
    print(json.dumps(payload, ensure_ascii=False) if args.json else text, file=args.report, flush=True)


@contextmanager
def _report_alone(args: argparse.Namespace) -> Iterator[None]:
    """With `--json`, standard output is the report's alone: whatever else is written there, by libraries and their
    child processes too, goes to standard error."""
    args.report = sys.stdout
    if not getattr(args, "json", False):
        yield
        return
    sys.stdout.flush()
    kept, before = os.dup(1), sys.stdout
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        with os.fdopen(os.dup(kept), "w", encoding="utf-8") as args.report:
            yield
    finally:
        sys.stdout = before
        os.dup2(kept, 1)
        os.close(kept)


def _quiet_third_parties() -> None:
    """Settings that libraries read at import, here because it must happen before any of them is imported."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # Its own handler makes an interrupted search look finished.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        # What goes right at MLflow is not our users' news.
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)


def build_parser() -> Parser:
    """All commands with their arguments."""
    parser = Parser(
        prog="isnet",
        description="Train, search, record and promote ISNet, a GAN that fills holes in pictures.",
        epilog="Exit status: 0 done; 1 ran and failed; 2 a mistake in the call, nothing started; 130 interrupted.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    data.demo(commands)
    data.data(commands)
    training.train(commands)
    training.plan(commands)
    training.tune(commands)
    models.evaluate(commands)
    models.inpaint(commands)
    models.models(commands)
    runs.runs(commands)
    cluster.submit(commands)
    cluster.jobs(commands)
    cluster.doctor(commands)
    cluster.stack(commands)
    bench.bench(commands)
    return parser
