"""The command `isnet`: parses arguments, calls the command, reports errors.

Arguments are parsed in `jobs.cli.arguments`. A command's module is imported when the command is called, so that
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
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from jobs.cli.arguments import parse
from jobs.cli.streams import OutputError, notify, usable_streams, write_report
from trainplane.collector import collector_off
from trainplane.command_line import CONTEXT_VARIABLE
from trainplane.errors import RunFailed, UserError, split_remedy
from trainplane.observe.json_lines import VARIABLE as LOG
from trainplane.observe.json_lines import restored_stderr, use_json_lines_if_asked
from trainplane.store_wait import STORE_WAITS

if TYPE_CHECKING:
    from trainplane.cluster.context import Context


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    with usable_streams(), restored_stderr():
        try:
            args = parse(words)
        except UserError as error:
            return _fail(argparse.Namespace(json="--json" in words), str(error), 2)
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    # Imported late, like the command itself, so that --help stays fast.
    from jobs.api.session import prepare_process

    prepare_process()
    # SIGTERM interrupts as Ctrl-C does, so that servers and processes that were started are ended on the way out.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        # Not where the shell lets a command of the background ignore it.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    module, _, function = args.target.partition(":")

    from isnet.errors import InputError
    from trainplane.environ import child_environment, preserved_variables
    from trainplane.observe.sinks import VARIABLE as METRICS
    from trainplane.store_wait import VARIABLE, patience

    try:
        with _report_stream(args), preserved_variables(CONTEXT_VARIABLE, VARIABLE, LOG, METRICS), child_environment():
            with collector_off(keep_all=True):
                command = getattr(importlib.import_module(f"jobs.{module}"), function)
            places = () if args.target.startswith(WITHOUT_CONTEXT) else (_context(args),)
            # The context may ask for it, too.
            use_json_lines_if_asked()
            with patience(is_long=args.target.startswith(LONG)):
                status = command(args, *places)
    except (UserError, InputError) as error:
        return _fail(args, str(error), 2)
    except RunFailed as error:
        return _fail(args, str(error), 1)
    except BrokenPipeError:
        # The reader of a pipe has ended (`isnet … | head`).
        return 0
    except OutputError as error:
        notify(f"the command has ended, but its report cannot be written ({error}); send it elsewhere")
        return 1
    except KeyboardInterrupt as error:
        # A run or a search says itself what it has saved.
        return _fail(args, f"interrupted{str(error) or RESUMABLE.get(args.target, '')}", 130)
    except Exception as error:
        # An unreachable server, or a database that is locked or full, is no fault of the program. Code that continues
        # without MLflow catches these errors itself.
        if type(error).__module__ != "mlflow.exceptions":
            raise
        from trainplane.tracking.client import reason

        return _fail(args, f"The MLflow request failed ({reason(error)}); fix the server and rerun the command", 1)
    return int(status or 0)


def _context(args: argparse.Namespace) -> Context:
    """Returns the context of `--context`, and sets its variables."""
    from jobs.api.session import open_context

    return open_context(
        args.context,
        is_recording=args.target.startswith(RECORDING),
        # `doctor` has findings of its own about that.
        checks_stack=not args.target.startswith("commands.doctor:"),
    )


# Commands without a context: they start servers of their own, or need none.
WITHOUT_CONTEXT = (
    "bench.",
    "commands.certificate:",
    "commands.cluster.stack:",
    "commands.completion:",
    "commands.config:",
)

# Commands that record something, and so make the database of a local context; all others leave nothing behind.
RECORDING = (
    "commands.demo:",
    "commands.train:",
    "commands.branch:",
    "commands.tune:",
    "commands.evaluate:",
    "commands.models:register",
    "commands.runs:sync",
    "commands.ui:ui",
)

# Commands that wait for a store that is away; for the others a person waits.
LONG = (
    "commands.demo:",
    "commands.train:",
    "commands.branch:",
    "commands.tune:",
    "commands.evaluate:",
    "commands.inpaint:",
    "commands.data:pack",
    "commands.data:verify",
    "commands.models:register",
    "commands.models:promote",
)

# Advice after an interruption, by command.
RESUMABLE = {
    **dict.fromkeys(
        ("commands.train:train", "commands.branch:branch", "commands.tune:tune"),
        " before the first step; run the same command again",
    ),
    "commands.demo:demo": "; run the same command again to continue with the stage that was interrupted",
    "commands.inpaint:inpaint": "; run the same command again: a job over prefixes continues after the stored parts",
    "commands.data:pack": "; run the same command again to continue after the stored shards",
}


def _interrupt(number: int, frame: Any) -> None:
    # What is cleaned up on the way out does not wait for a store that is away.
    STORE_WAITS.is_over = True
    raise KeyboardInterrupt


def _fail(args: argparse.Namespace, message: str, status: int) -> int:
    """Reports a failure; with `--json` on both streams."""
    notify(message)
    if args.json and not getattr(args, "is_reported", False):
        what, remedy = split_remedy(message)
        # Nobody may read it any more, and the status says the same.
        with suppress(BrokenPipeError, OutputError):
            write_report(json.dumps({"error": what, "remedy": remedy or None}, ensure_ascii=False), sys.stdout)
    return status


def emit(args: argparse.Namespace, payload: dict[str, Any], text: str) -> None:
    """Prints a command's report: with `--json` one object, else text."""
    args.is_reported = True
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
