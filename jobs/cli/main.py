"""The command `isnet`: parses arguments, calls the command, reports errors.

Arguments are declared in `jobs.cli.parsers`. A command's module is imported when the command is called, so that
`isnet --help` answers at once. Exit status: 0 done; 1 ran and failed; 2 the user's mistake, nothing was started;
130 interrupted.
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
from typing import TYPE_CHECKING, Any

from jobs.cli.arg_types import Parser
from jobs.cli.parsers import bench, cluster, data, models, runs, training
from jobs.cli.streams import OutputError, notify, usable_streams, write_report
from trainplane.command_line import CONTEXT_VARIABLE
from trainplane.passive_waiting import wait_passively

if TYPE_CHECKING:
    from trainplane.cluster.context import Context


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    with usable_streams():
        return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    # Parse: settings may stand behind options, too.
    parser = build_parser()
    args, extra = parser.parse_known_args(argv)
    if extra:
        _add_overrides(parser, args, extra)
    # `isnet` alone: print the help and exit.
    if not hasattr(args, "target"):
        parser.parse_args([*(argv if argv is not None else sys.argv[1:]), "--help"])
    _quiet_third_parties()
    wait_passively()
    # SIGTERM interrupts as Ctrl-C does, so that servers and processes that were started are ended on the way out.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Imported late, like the command itself, so that --help stays fast.
    module, _, function = args.target.partition(":")

    from isnet.errors import InputError
    from trainplane.environ import child_environment, preserved_variables
    from trainplane.errors import RunFailed, UserError

    try:
        with _report_stream(args), preserved_variables(CONTEXT_VARIABLE), child_environment():
            command = getattr(importlib.import_module(f"jobs.{module}"), function)
            status = command(args) if args.target.startswith(WITHOUT_CONTEXT) else command(args, _context(args))
    except (UserError, InputError) as error:
        return _fail(str(error), 2)
    except RunFailed as error:
        return _fail(str(error), 1)
    except BrokenPipeError:
        # The reader of a pipe has ended (`isnet … | head`).
        return 0
    except OutputError as error:
        return _fail(f"the command has ended, but its report cannot be written ({error}); send it elsewhere", 1)
    except KeyboardInterrupt:
        return _fail(f"interrupted{RESUMABLE.get(args.target, '')}", 130)
    except Exception as error:
        # An unreachable server, or a database that is locked or full, is no fault of the program. Code that continues
        # without MLflow catches these errors itself.
        if type(error).__module__ != "mlflow.exceptions":
            raise
        from trainplane.tracking.client import reason

        return _fail(f"The MLflow request failed ({reason(error)}); fix the server and rerun the command", 1)
    return int(status or 0)


def _add_overrides(parser: Parser, args: argparse.Namespace, extra: list[str]) -> None:
    """Adds settings behind an option (`train demo --fresh train.steps=9`)."""
    # Argparse does not recognise them; everything else is a mistake.
    if not hasattr(args, "overrides") or any("=" not in word or word.startswith("-") for word in extra):
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    args.overrides += extra


def _context(args: argparse.Namespace) -> Context:
    """Returns the context of `--context`, and sets its variables."""
    from trainplane.cluster.context import resolve

    context = resolve(args.context)
    context.activate()
    # Lines in messages name the context that was named here.
    if args.context is not None:
        os.environ[CONTEXT_VARIABLE] = context.name
    if not args.target.startswith(RECORDING):
        context.tracking_server.only_read()
    return context


# Commands without a context: they start servers of their own, or need none.
WITHOUT_CONTEXT = ("bench.", "commands.stack:")

# Commands that record something, and so make the database of a local context; all others leave nothing behind.
RECORDING = (
    "commands.demo:",
    "commands.train:",
    "commands.tune:",
    "commands.evaluate:",
    "commands.models:register",
    "commands.runs:sync",
    "commands.ui:ui",
)

# Advice after an interruption, by command.
RESUMABLE = {
    **dict.fromkeys(
        ("commands.demo:demo", "commands.train:train", "commands.tune:tune"),
        "; run the same command again to resume from the last checkpoint, if there is one",
    ),
    "commands.inpaint:inpaint": "; run the same command again: a job over prefixes continues after the stored parts",
    "commands.data:pack": "; run the same command again to continue after the stored shards",
}


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> int:
    notify(message)
    return status


def emit(args: argparse.Namespace, payload: dict[str, Any], text: str) -> None:
    """Prints a command's report: with `--json` one object, else text."""
    write_report(json.dumps(payload, ensure_ascii=False) if args.json else text, args.report)


@contextmanager
def _report_stream(args: argparse.Namespace) -> Iterator[None]:
    """Opens `args.report`; with `--json` only it is standard output."""
    args.report = sys.stdout
    if not getattr(args, "json", False):
        yield
        return
    # Redirect all other output of this process, its libraries and its child processes to standard error.
    sys.stdout.flush()
    descriptor, stdout = os.dup(1), sys.stdout
    # Child processes inherit the descriptor, Python code uses the object.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    try:
        # Escapes of Python are escapes of JSON for what UTF-8 cannot hold: single bytes of a file's name.
        with os.fdopen(os.dup(descriptor), "w", encoding="utf-8", errors="backslashreplace") as args.report:
            yield
    finally:
        sys.stdout = stdout
        os.dup2(descriptor, 1)
        os.close(descriptor)


def _quiet_third_parties() -> None:
    """Sets variables that libraries read at import, before any import."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
        # Tune's own handler makes an interrupted search look finished.
        "TUNE_DISABLE_SIGINT_HANDLER": "1",
        "GIT_PYTHON_REFRESH": "quiet",
        # MLflow reports its successes at level INFO.
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)


def build_parser() -> Parser:
    """Builds the parser of all commands."""
    parser = Parser(
        prog="isnet",
        description="Train, search, record and promote ISNet, a GAN that fills holes in pictures.",
        epilog="Exit status: 0 done; 1 ran and failed; 2 a mistake in the call, nothing started; 130 interrupted.",
    )
    # In the order of `isnet --help`: from data to cluster.
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
