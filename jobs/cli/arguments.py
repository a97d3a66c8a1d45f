"""Parses a command line, or says what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from jobs.cli.arg_types import command, commands_of, common_options
from jobs.cli.parser import Parser, similar_option, unknown_option
from jobs.cli.parsers import bench, cluster, data, models, reference, runs, serve, training
from trainplane.errors import UserError

_LIBRARIES = ("torch", "ray", "mlflow")


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parses the words of a command; prints help and version.

    Raises:
        UserError: The words are no command.
        SystemExit: Help or version were printed.
    """
    # `isnet help data pack` is `isnet data pack --help`, and `isnet` alone is `isnet --help`.
    if words[:1] == ["help"] or not words:
        words = [*words[1:], "--help"]
    args, extra = build_parser().parse_known_args(words)
    if not hasattr(args, "target"):
        raise UserError("`isnet` needs a command; see `isnet --help`")
    # Settings behind an option (`train demo --fresh train.steps=9`): argparse does not recognise them.
    for word in extra:
        if not hasattr(args, "overrides") or "=" not in word or word.startswith("-"):
            raise UserError(_unknown(word, words, args))
    if extra:
        args.overrides = [*args.overrides, *extra]
    return args


def _unknown(word: str, words: Sequence[str], args: argparse.Namespace) -> str:
    """Message about a word that the command does not take."""
    name, equals, value = word.lstrip("-").partition("=")
    is_option = word.startswith("-")
    if hasattr(args, "overrides") and is_option and similar_option(word, args.parser) is None:
        # Imported late: only a mistake needs it.
        from jobs.config import meant_overrides

        following = words[words.index(word) + 1 :]
        value = value if equals else next((text for text in following[:1] if not text.startswith("-")), "…")
        if settings := meant_overrides(name, value, of_search="tune" in args.parser.prog):
            written = " or ".join(settings)
            return f"{word} is no option of `{args.parser.prog}`; settings have no dashes: write {written}"
    return unknown_option(word, args.parser)


class _Version(argparse.Action):
    """Prints the version."""

    def __call__(self, parser: argparse.ArgumentParser, *ignored: Any) -> None:
        # Importing it takes a third of the time of `isnet --help`.
        from importlib import metadata

        versions = [f"Python {sys.version.partition(' ')[0]}"]
        versions += [f"{name} {metadata.version(name)}" for name in _LIBRARIES]
        print(f"isnet {metadata.version('isnet-platform')} ({', '.join(versions)})")
        parser.exit()


def build_parser() -> Parser:
    """Builds the parser of all commands."""
    parser = Parser(
        prog="isnet",
        description="Train, search, record and promote ISNet, a GAN that fills holes in pictures.",
    )
    parser.epilog = (
        f"{parser.epilog}\n\nexit status: 0 done; 1 ran and failed; 2 a mistake in the call, nothing started; "
        "130 interrupted"
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and those of the libraries")
    common_options(parser)
    parser.set_defaults(json=False, context=None)
    # In the order of `isnet --help`: from data to cluster.
    commands = commands_of(parser, metavar="COMMAND", title="commands")
    data.demo(commands)
    data.data(commands)
    reference.config(commands)
    training.train(commands)
    training.plan(commands)
    training.tune(commands)
    models.evaluate(commands)
    models.inpaint(commands)
    models.models(commands)
    serve.serve(commands)
    runs.runs(commands)
    cluster.submit(commands)
    cluster.jobs(commands)
    cluster.queue(commands)
    cluster.notify(commands)
    cluster.doctor(commands)
    cluster.stack(commands)
    bench.bench(commands)
    reference.completion(commands)
    # Replaced by `--help` before anything is parsed; it stands here to be found.
    command(commands, "help", "", "help about a command: isnet help train").add_argument("words", nargs="*")
    return parser
