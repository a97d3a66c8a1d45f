"""Prints docs/api.md from the docstrings: `python -m jobs.api.reference`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import pairwise
from typing import Any

import isnet
from isnet.inference.open_filler import open_filler
from isnet.inpaint import Inpainted
from jobs import api
from jobs.api.filling import FilledFiles
from jobs.api.recorded_runs import ExportedCurves, ListedRun
from jobs.api.registry import ListedModel, NewVersion, Promotion
from jobs.api.training import TrainedRun
from jobs.evaluation.run import RecordedEvaluation
from jobs.registry.export import ExportedModel
from jobs.registry.model_signature import SignedVersion
from jobs.search.run import FinishedSearch
from jobs.tracking.comparison import RunComparison
from trainplane.data.manifest import Dataset
from trainplane.train.spec import Outcome

_HEAD = """# Python API

Printed by `python -m jobs.api.reference` from the docstrings. [python.md](python.md) has examples. Functions of
`jobs.api` are what the commands of their names call; a mistake raises `UserError` or `InputError` with a sentence, a
run that failed `RunFailed`.
"""
_ALONE = (("isnet.fill", isnet.fill), ("isnet.build", isnet.build), ("open_filler", open_filler))
_OUTCOMES = (
    TrainedRun,
    Outcome,
    FinishedSearch,
    RecordedEvaluation,
    Dataset,
    Inpainted,
    FilledFiles,
    NewVersion,
    Promotion,
    ListedModel,
    ListedRun,
    RunComparison,
    ExportedCurves,
    ExportedModel,
    SignedVersion,
)
# Titles of parts of a docstring.
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$")
_ENTRY = re.compile(r"^    (\*{0,2}[\w.]+): (.*)$")


def reference() -> str:
    """Returns the page in Markdown."""
    parts = [_HEAD, "## The science alone\n"]
    parts += [_function(name, function) for name, function in _ALONE]
    parts.append("## The platform\n")
    parts += [_function(f"jobs.api.{name}", getattr(api, name)) for name in api.FUNCTIONS]
    parts.append("## Outcomes\n")
    parts += [_outcome(kind) for kind in _OUTCOMES]
    return "\n".join(parts)


def _function(name: str, function: Callable[..., Any]) -> str:
    return f"### `{name}`\n\n```text\n{_signature(name, function)}\n```\n\n{_body(function)}"


def _outcome(kind: type) -> str:
    heading = f"### `{kind.__name__}`\n\n`from {kind.__module__} import {kind.__name__}`\n\n"
    parts = [heading.rstrip("\n"), _body(kind).strip(), _fields(kind).strip(), _members(kind).strip()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _fields(kind: type) -> str:
    """Table of the fields that the docstring does not explain."""
    if not is_dataclass(kind):
        return ""
    explained = set(re.findall(r"^    (\w+): ", inspect.getdoc(kind) or "", re.MULTILINE))
    # Those of a parent class are listed with it.
    own = kind.__annotations__
    rows = [(entry.name, f"`{entry.type}`") for entry in fields(kind) if entry.name in own.keys() - explained]
    return f"{_table('attribute', rows, 'type')}\n\n" if rows else ""


def _members(kind: type) -> str:
    """Table of public properties and methods."""
    rows = []
    for name, member in vars(kind).items():
        function = member.fget if isinstance(member, property) else member
        if name.startswith("_") or not inspect.isfunction(function) or not function.__doc__:
            continue
        heading = name if isinstance(member, property) else f"{name}()"
        rows.append((heading, _first_line(function)))
    return f"{_table('more', rows)}\n" if rows else ""


def _table(head: str, rows: Sequence[tuple[str, str]], meaning: str = "meaning") -> str:
    """Table of names and texts; docstrings are Markdown already."""
    cells = [f"| `{name}` | {text.replace('|', chr(92) + '|')} |" for name, text in rows]
    return "\n".join([f"| {head} | {meaning} |", "|---|---|", *cells])


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Signature with one parameter a line."""
    signature = inspect.signature(function)
    lines, is_named = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not is_named:
            lines.append("*")
            is_named = True
        kind = "**" if parameter.kind is parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
        lines.append(f"{kind}{parameter.name}: {parameter.annotation}{default}")
    inside = "".join(f"    {line},\n" for line in lines)
    return f"{name}(\n{inside}) -> {signature.return_annotation}"


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _body(documented: Any) -> str:
    """Docstring as Markdown: text, then a table for each part."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    titles = [number for number, line in enumerate(lines) if _SECTION.match(line)]
    text = "\n".join(lines[: titles[0]] if titles else lines).strip()
    parts = [f"{text}\n"]
    for start, end in pairwise([*titles, len(lines)]):
        title = lines[start].removesuffix(":")
        entries = list(_entries(lines[start + 1 : end]))
        if entries:
            head = {"Args": "argument", "Attributes": "attribute", "Raises": "raises"}.get(title, title.lower())
            parts.append(_table(head, entries))
        else:
            parts.append(f"{title}: {' '.join(line.strip() for line in lines[start + 1 : end]).strip()}")
        parts.append("")
    return "\n".join(parts)


def _entries(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Names and texts of a part that has them."""
    name, text = "", ""
    for line in lines:
        if match := _ENTRY.match(line):
            if name:
                yield name, text
            name, text = match[1], match[2]
        elif name and line.strip():
            text += f" {line.strip()}"
    if name:
        yield name, text


if __name__ == "__main__":
    print(reference(), end="")
