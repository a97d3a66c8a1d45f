"""Parser whose refusals are sentences of ours.

A mistake raises `UserError`, like any other mistake of a user, so that there is one place that reports it.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Collection
from typing import Any, NoReturn

from jobs.cli.examples import EXAMPLES, examples_text
from trainplane.errors import UserError

_REQUIRED = "the following arguments are required: "
# Other programs' words for our commands.
SYNONYMS = {
    "search": "tune",
    "sweep": "tune",
    "fit": "train",
    "eval": "evaluate",
    "test": "evaluate",
    "predict": "inpaint",
    "infer": "inpaint",
    "fill": "inpaint",
    "mlflow": "ui",
    "presets": "config show",
    "settings": "config show",
    "show": "config show",
    "version": "--version",
    "check": "doctor",
}


class Parser(argparse.ArgumentParser):
    """Parser of a command, or of a group of commands."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.actions: dict[str, Parser] = {}  # of a group, by name
        self.examples = EXAMPLES.get(self.prog, [])
        self.epilog = examples_text(self.examples)

    @property
    def options(self) -> list[str]:
        """Names of all options."""
        return list(self._option_string_actions)

    @property
    def arguments(self) -> list[argparse.Action]:
        """All arguments and options."""
        return list(self._actions)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError` with a sentence instead of argparse's message."""
        if message.startswith(_REQUIRED):
            names = message.removeprefix(_REQUIRED)
            raise UserError(f"`{self.prog}` needs {names}; {self._for_example()}")
        sentence = re.sub(r"^argument ([^:]*): ", r"\1: ", message)
        raise UserError(sentence if "; " in sentence else f"{sentence}; see `{self.prog} --help`")

    def _for_example(self) -> str:
        if self.actions:
            return f"there are {', '.join(self.actions)}; see `{self.prog} --help`"
        return f"for example: {self.examples[0][1]}" if self.examples else f"see `{self.prog} --help`"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        # Called by argparse for each value of an argument with choices.
        if action.choices is None or value in action.choices:
            return
        if self.actions and action.option_strings == []:
            raise UserError(unknown_command(str(value), self))
        name = "/".join(action.option_strings) or action.metavar or action.dest
        raise UserError(f"{name}: {value!r} is not known{one_of(str(value), [str(c) for c in action.choices])}")


def unknown_command(word: str, parser: Parser) -> str:
    """Message about an unknown command or action."""
    message = f"there is no command `{parser.prog} {word}`"
    if parser.prog.count(" ") == 0 and word in SYNONYMS:
        return f"{message}; did you mean `{parser.prog} {SYNONYMS[word]}`?"
    if near := difflib.get_close_matches(word.lower(), parser.actions, n=1, cutoff=0.6):
        return f"{message}; did you mean `{parser.prog} {near[0]}`?"
    # Actions of groups, such as `pack` of `data pack`.
    elsewhere = [f"`{group.prog} {word}`" for group in parser.actions.values() if word in group.actions]
    if elsewhere:
        *first, last = elsewhere
        return f"{message}; did you mean {', '.join(first)}{' or ' if first else ''}{last}?"
    return f"{message}; there are {', '.join(parser.actions)}"


def unknown_option(word: str, parser: Parser) -> str:
    """Message about an unknown option, or a superfluous word."""
    if not word.startswith("-"):
        return f"{word!r} is one word too many for `{parser.prog}`; see `{parser.prog} --help`"
    near = similar_option(word, parser)
    hint = f"did you mean {near}?" if near else f"see `{parser.prog} --help`"
    return f"{word.partition('=')[0]} is no option of `{parser.prog}`; {hint}"


def similar_option(word: str, parser: Parser) -> str | None:
    """Option of a similar name, if any."""
    near = difflib.get_close_matches(word.partition("=")[0], parser.options, n=1, cutoff=0.75)
    return near[0] if near else None


def one_of(word: str, names: Collection[str]) -> str:
    """Hint with the nearest name, or all of them."""
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else f"; need one of {', '.join(names)}"
