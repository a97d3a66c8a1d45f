"""Parts of the parsers: commands, groups, types of arguments."""

from __future__ import annotations

import argparse
import math
from typing import Any

from jobs.cli.parser import Parser

MODEL_HELP = (
    "NAME, NAME@ALIAS or NAME/VERSION of a registered model, runs:/ID, a checkpoint's address, author:PATH, "
    "starter, untrained:PRESET, or classical:mean|telea|ns|biharmonic"
)


def command(commands: Any, name: str, target: str, summary: str, **options: Any) -> Parser:
    """Adds one command; `target` is MODULE:FUNCTION below `jobs`."""
    parser: Parser = commands.add_parser(name, help=summary, description=summary, **options)
    commands.parent.actions[name] = parser
    # The target is imported only when the command is called.
    parser.set_defaults(target=target, command=name, parser=parser)
    common_options(parser)
    return parser


def group(commands: Any, name: str, summary: str) -> Any:
    """Adds a command that has actions, and returns their group."""
    parser: Parser = commands.add_parser(name, help=summary, description=summary)
    commands.parent.actions[name] = parser
    common_options(parser)
    return commands_of(parser, metavar="ACTION", title="actions", required=True)


def commands_of(parser: Parser, **options: Any) -> Any:
    """Returns the group of a parser's commands."""
    commands = parser.add_subparsers(**options)
    commands.parent = parser  # type: ignore[attr-defined]
    return commands


def common_options(parser: Parser) -> None:
    """Adds the options of every command, at any place."""
    # Without a default: that of a command would replace what stands before the command.
    none: Any = argparse.SUPPRESS
    parser.add_argument(
        "--json", action="store_true", default=none, help="print one JSON object on standard output, nothing else"
    )
    parser.add_argument(
        "--context", metavar="NAME", default=none, help="where things are: a context of isnet.toml (default: local)"
    )


def preset(parser: Parser, metavar: str, *, kind: str = "presets", nargs: str | None = None) -> None:
    """Adds a preset and its overrides.

    Args:
        parser: of the command.
        metavar: name of the preset in the help.
        kind: words that complete it, see `jobs.commands.completion`.
        nargs: "?" where it may be left out.
    """
    name = parser.add_argument(
        "preset",
        nargs=nargs,
        metavar=metavar,
        help="a shipped name (`isnet config show` lists them) or a YAML file; PRESET+laptop is any of them, shrunk",
    )
    name.completed_by = kind  # type: ignore[attr-defined]
    settings(parser, kind="searches_or_settings" if kind == "searches" else "settings")


def settings(parser: Parser, kind: str = "settings") -> None:
    """Adds overrides, completed by words of this kind."""
    overrides = parser.add_argument(
        "overrides",
        nargs="*",
        # With a default argparse does not call them required.
        default=[],
        metavar="a.b=c",
        help="settings on top, such as train.steps=200; all of them: `isnet config show PRESET`",
    )
    overrides.completed_by = kind  # type: ignore[attr-defined]


def number(text: str) -> int:
    """Parses a whole number."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number; need one such as 8") from error


def count(text: str) -> int:
    """Parses a number of at least 1."""
    value = number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; need at least 1")
    return value


def whole(text: str) -> int:
    """Parses a number of at least 0."""
    value = number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; need 0 or more")
    return value


def positive(text: str) -> float:
    """Parses a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0; give one such as 1.5")
    return value


def port(text: str) -> int:
    """Parses a TCP port; 0 means a free one."""
    value = number(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port; need 0 to 65535")
    return value


def size(text: str) -> int:
    """Parses `64M`, `1.5G` or a plain number of bytes."""
    # Binary units: `64M` is 64 MiB.
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    unit = units.get(text[-1:].upper(), 1)
    try:
        value = int(float(text[:-1] if unit > 1 else text) * unit)
    # OverflowError: `inf`.
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; need bytes such as 64M") from error
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; need at least 1 byte")
    return value
