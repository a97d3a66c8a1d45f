"""`isnet config show [PRESET]`: presets, and every setting of one."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from jobs.cli.main import emit
from jobs.config import ISNetConfig
from jobs.presets.values import (
    PresetSummary,
    SectionValues,
    preset_values,
    shipped_layers,
    shipped_presets,
)
from trainplane.config.schema import SectionInfo, Setting, sections
from trainplane.errors import UserError
from trainplane.markdown import escaped
from trainplane.search.config import SearchFile

_INTRODUCTION = """# Settings

All presets, layers and settings, printed by `isnet config show --markdown` from the declarations that check what you
type. Set any of them behind a preset (`isnet train demo train.steps=200`) or in a YAML file:

```yaml
base: places2          # a preset to start from
name: mine
data: {train: my-photos, val: null}
train: {steps: 2000}
```

`isnet config show PRESET` prints the values of a preset and the file that each comes from.
"""


def show(args: argparse.Namespace) -> int:
    """Shows presets, the settings of one, or the reference."""
    if args.markdown:
        if args.preset is not None:
            raise UserError("--markdown prints the reference of all settings; leave the preset out")
        emit(args, {"markdown": reference()}, reference().rstrip("\n"))
    elif args.preset is None:
        emit(args, _summary_payload(), "\n".join(_summary_lines()))
    else:
        values = preset_values(args.preset, args.overrides)
        emit(args, _values_payload(args.preset, values), "\n".join(_value_lines(values)))
    return 0


def _summary_payload() -> dict[str, Any]:
    """Returns the output of `--json` without a preset."""
    return {
        "presets": [vars(summary) for summary in shipped_presets()],
        "layers": [vars(summary) for summary in shipped_layers()],
        "settings": [_setting_row(setting) for section in _all_sections() for setting in section.settings],
    }


def _summary_lines() -> Iterator[str]:
    presets, layers = shipped_presets(), shipped_layers()
    width = max(len(summary.name) for summary in (*presets, *layers))
    for title, summaries in (
        ("presets of runs, for `isnet train`", [summary for summary in presets if summary.command == "train"]),
        ("presets of searches, for `isnet tune`", [summary for summary in presets if summary.command == "tune"]),
        ("layers, on top of any of them, as in places2+laptop", layers),
    ):
        yield title
        yield from (_wrapped(f"  {summary.name:<{width}}  ", summary.meaning) for summary in summaries)
    yield "all settings of one: isnet config show demo; of all: docs/settings.md, isnet config show --markdown"


def _values_payload(preset: str, values: Sequence[SectionValues]) -> dict[str, Any]:
    """Returns the output of `--json` of a preset."""
    rows = [
        {**_setting_row(row.setting), "value": row.value, "source": row.source}
        for section in values
        for row in section.values
    ]
    return {"preset": preset, "settings": rows}


def _setting_row(setting: Setting) -> dict[str, Any]:
    return {
        "name": setting.name,
        "type": setting.kind,
        "unit": setting.unit,
        "required": setting.is_required,
        "default": setting.default,
        "meaning": setting.meaning,
    }


def _value_lines(values: Sequence[SectionValues]) -> Iterator[str]:
    rows = [row for section in values for row in section.values]
    name, source = (max(map(len, texts)) for texts in ([r.setting.name for r in rows], [r.source for r in rows]))
    for section in values:
        if not section.values:
            continue
        yield f"{section.section.name or 'run'}: {section.section.meaning}".rstrip(": ")
        for row in section.values:
            unit = f" {row.setting.unit}" if row.setting.unit and isinstance(row.value, int | float) else ""
            yield f"  {row.setting.name:<{name}}  {row.source:<{source}}  {typed(row.value)}{unit}"
            yield _wrapped(" " * (name + source + 6), f"{row.setting.meaning} ({row.setting.kind})")


def _wrapped(prefix: str, text: str) -> str:
    """Text in the width of the terminal, behind a prefix."""
    width = max(shutil.get_terminal_size((120, 24)).columns, len(prefix) + 30)
    return textwrap.fill(text, width, initial_indent=prefix, subsequent_indent=" " * len(prefix))


def typed(value: Any) -> str:
    """Value as a user would type it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def reference() -> str:
    """Markdown page of all presets and settings."""
    parts = [_INTRODUCTION, "## Presets\n", _preset_table([*shipped_presets(), *shipped_layers()])]
    for section in _all_sections():
        if section.settings:
            parts.append(f"## {f'`{section.name}`' if section.name else 'Outside of sections'}\n")
            parts += [section.meaning + "\n"] if section.meaning else []
            parts.append(_setting_table(section.settings))
    return "\n".join(parts)


def _all_sections() -> list[SectionInfo]:
    """Sections of an ISNet run, then those of a search."""
    of_search = [section for section in sections(SearchFile) if section.name]
    return [*sections(ISNetConfig), *of_search]


def _preset_table(summaries: Sequence[PresetSummary]) -> str:
    lines = ["| name | for | meaning |", "|---|---|---|"]
    layers = {summary.name for summary in shipped_layers()}
    for summary in summaries:
        name, use = (
            (f"`PRESET+{summary.name}`", "any preset")
            if summary.name in layers
            else (f"`{summary.name}`", f"`isnet {summary.command}`")
        )
        lines.append(f"| {name} | {use} | {_cell(summary.meaning)} |")
    return "\n".join(lines) + "\n"


def _setting_table(settings: Sequence[Setting]) -> str:
    lines = ["| setting | type | unit | default | meaning |", "|---|---|---|---|---|"]
    for setting in settings:
        default = "required" if setting.is_required else f"`{typed(setting.default)}`" if setting.default != "" else ""
        kind, meaning = _cell(setting.kind), _cell(setting.meaning)
        lines.append(f"| `{setting.name}` | {kind} | {setting.unit} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text of a table's cell, with its code."""
    return escaped(text).replace("\\`", "`")
