"""Parts of the parsers: commands, groups, types of arguments."""

from __future__ import annotations

import argparse
from typing import Any

Parser = argparse.ArgumentParser

MODEL_HELP = (
    "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/ID, a checkpoint's address, author:PATH, "
    "untrained:PRESET, or classical:mean|telea|ns|biharmonic"
)


def command(commands: Any, name: str, target: str, summary: str, **options: Any) -> Parser:
    """Adds one command; `target` is MODULE:FUNCTION below `jobs`."""
    parser: Parser = commands.add_parser(name, help=summary, description=summary, **options)
    # The target is imported only when the command is called.
    parser.set_defaults(target=target, command=name)
    # Options that every command has.
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output, nothing else")
    parser.add_argument("--context", metavar="NAME", help="where things are: a context of isnet.toml (default: local)")
    return parser


def group(commands: Any, name: str, summary: str) -> Any:
    """Adds a command that has actions, and returns their group."""
    parser = commands.add_parser(name, help=summary, description=summary)
    return parser.add_subparsers(metavar="ACTION", title="actions", required=True)


def preset(parser: Parser, metavar: str) -> None:
    """Adds a preset and its overrides."""
    parser.add_argument(
        "preset",
        metavar=metavar,
        help="a shipped name (demo, places2, celeba, …) or a YAML file; PRESET+laptop is any of them, shrunk",
    )
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="settings on top, such as train.steps=200")


def count(text: str) -> int:
    """Parses a number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is too small; need at least 1")
    return value


def whole(text: str) -> int:
    """Parses a number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative; need 0 or more")
    return value


def port(text: str) -> int:
    """Parses a TCP port; 0 means a free one."""
    value = int(text)
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
