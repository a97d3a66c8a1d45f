"""Command lines in messages can be pasted: one function makes them, and the parser takes each of them."""

import ast
import re
from pathlib import Path

import pytest

from jobs.cli.arguments import build_parser
from trainplane.command_line import CONTEXT_VARIABLE, command_line

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT / "jobs", ROOT / "isnet", ROOT / "platform" / "trainplane"]
# Texts for every context: help and reference of the commands, reports, cards of models, and what MLflow's pages show.
LASTING = (
    "jobs/cli/",
    "jobs/bench/",
    "jobs/commands/config.py",
    "jobs/evaluation/model_card.py",
    "jobs/evaluation/figures.py",
    "platform/trainplane/cluster/context_file.py",
    "platform/trainplane/train/setup.py",
    "platform/trainplane/train/config.py",
    "platform/trainplane/train/start/settings.py",
)
# The reason of a record, and a part that failed: nothing to paste.
ALLOWED = ("isnet demo", "`isnet inpaint` failed in a fresh process: ")
COMMANDS = "config|completion|demo|data|train|plan|tune|evaluate|inpaint|models|runs|ui|submit|jobs|doctor|stack|bench"


def trees():
    for root in SOURCES:
        for file in sorted(root.rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            yield name, ast.parse(file.read_text(encoding="utf-8"))


def calls():
    """File, line and words of every call of `command_line`; what is only known later is a word like any other."""
    for name, tree in trees():
        for node in ast.walk(tree):
            is_call = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "command_line"
            # Lines that are repeated as they were typed begin with words that are only known later.
            if is_call and not _is_rest(node.args[0]):
                yield f"{name}:{node.lineno}", [_word(argument) for argument in node.args if not _is_rest(argument)]


def _is_rest(argument):
    return isinstance(argument, ast.Starred)


def _word(argument):
    return argument.value if isinstance(argument, ast.Constant) else "1"


CALLS = dict(calls())


def test_there_are_command_lines():
    assert len(CALLS) > 30


@pytest.mark.parametrize("place", CALLS)
def test_the_parser_takes_every_command_line(place, monkeypatch, capsys):
    monkeypatch.setenv(CONTEXT_VARIABLE, "lab")
    program, *words = command_line(*CALLS[place]).split()
    # Lines whose other words are only known later end with what is certain.
    arguments, rest = build_parser().parse_known_args(words)
    assert program == "isnet"
    assert not [word for word in rest if "=" not in word], rest
    assert arguments.context == ("lab" if words[0] not in ("stack", "bench") else None)


def test_no_other_text_names_a_command_line():
    """Such a line would lack the context, or quotes of the shell."""
    pattern = re.compile(rf"\bisnet (?:{COMMANDS})\b")
    found = []
    for name, tree in trees():
        if name.startswith(LASTING):
            continue
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        for node in ast.walk(tree):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if pattern.search(text) and text not in ALLOWED and id(node) not in docstrings:
                found.append(f"{name}:{node.lineno}: {text[:80]}")
            # `f"{CLI} train"`
            if isinstance(node, ast.JoinedStr):
                for value, after in zip(node.values, node.values[1:], strict=False):
                    is_program = isinstance(value, ast.FormattedValue) and getattr(value.value, "id", "") == "CLI"
                    if is_program and re.match(rf" (?:{COMMANDS})\b", getattr(after, "value", "") or ""):
                        found.append(f"{name}:{node.lineno}")
    assert not found, "\n".join(found)


def test_words_are_quoted_for_the_shell_and_the_context_is_named(monkeypatch):
    monkeypatch.delenv(CONTEXT_VARIABLE, raising=False)
    assert command_line("data", "show", "my photos") == "isnet data show 'my photos'"
    monkeypatch.setenv(CONTEXT_VARIABLE, "lab")
    assert command_line("runs", "show", "12ab") == "isnet runs show 12ab --context lab"
    # Behind `submit` everything is the job's.
    assert command_line("submit", "train", "demo") == "isnet submit --context lab train demo"
    assert command_line("stack", "up") == "isnet stack up"
