"""Draws `isnet bench gpu` as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainplane.markdown import markdown_table


def page(report: Mapping[str, Any]) -> str:
    """One page: a verdict for each section, then its figures."""
    machine = report["machine"]
    lines = [
        "# bench gpu",
        "",
        f"{machine['gpu'] or machine['processor']}, torch {machine['torch']}, {report['seconds']:.0f} s",
        "",
    ]
    rows = [[name, _verdict(row), f"{row['seconds']:.1f}"] for name, row in report["sections"].items()]
    lines += [markdown_table(["section", "result", "seconds"], rows), ""]
    for name, row in report["sections"].items():
        lines += [f"## {name}", "", *_figures(row), ""]
    return "\n".join(lines)


def _verdict(row: Mapping[str, Any]) -> str:
    if "failed" in row:
        return f"failed: {row['failed']}"
    return "ok" if row["ok"] else "does not hold"


def _figures(row: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, value in row.items():
        if name in ("ok", "seconds"):
            continue
        if isinstance(value, Mapping) and value and all(isinstance(each, Mapping) for each in value.values()):
            columns = list(dict.fromkeys(key for each in value.values() for key in each))
            table = [[str(key), *(_shown(each.get(column)) for column in columns)] for key, each in value.items()]
            lines += ["", markdown_table([name, *columns], table), ""]
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            columns = list(value[0])
            lines += ["", markdown_table(columns, [[_shown(each[column]) for column in columns] for each in value]), ""]
        else:
            lines.append(f"- {name}: {_shown(value)}")
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(each)}" for key, each in value.items())
    return "–" if value is None else str(value)
