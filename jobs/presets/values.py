"""Values of a preset's settings, each with its source."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.config import build_run, run_schema
from jobs.presets import LAYERS, PRESETS, SEARCH, PresetPart, merge, preset_names, preset_parts
from trainplane.config.canonical import flatten
from trainplane.config.load import build
from trainplane.config.overrides import apply_overrides
from trainplane.config.schema import SectionInfo, Setting, sections
from trainplane.config.section import Section
from trainplane.search.config import SearchFile

DEFAULT, OVERRIDE = "default", "override"


@dataclass(frozen=True)
class SettingValue:
    """One setting with its value in a preset."""

    setting: Setting
    value: Any  # as JSON
    source: str  # `default`, `override`, or the name of a preset or layer


@dataclass(frozen=True)
class SectionValues:
    """Settings of one section with their values."""

    section: SectionInfo
    values: list[SettingValue]


@dataclass(frozen=True)
class PresetSummary:
    """A shipped preset or layer, in one line."""

    name: str
    command: str  # `train` or `tune`; of a layer both
    meaning: str


def shipped_presets() -> list[PresetSummary]:
    """All shipped presets, those of runs first."""
    summaries = [
        PresetSummary(file.stem, "tune" if file.stem.startswith(SEARCH) else "train", _meaning(file))
        for file in sorted(PRESETS.glob("*.yaml"))
    ]
    return sorted(summaries, key=lambda summary: summary.command)


def shipped_layers() -> list[PresetSummary]:
    """All shipped layers."""
    return [PresetSummary(file.stem, "train, tune", _meaning(file)) for file in sorted(LAYERS.glob("*.yaml"))]


def _meaning(file: Path) -> str:
    """First sentence of a file's first comment."""
    lines = file.read_text(encoding="utf-8").splitlines()
    comment = " ".join(line.removeprefix("#").strip() for line in lines[: _num_comments(lines)])
    # A point behind "Eq" ends no sentence.
    return re.split(r"(?<!Eq)\. ", comment)[0].rstrip(".").removeprefix("A layer: ") + "."


def _num_comments(lines: Sequence[str]) -> int:
    return next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))


def preset_values(preset: str, overrides: Sequence[str]) -> list[SectionValues]:
    """Settings of a run, or a search, by section.

    Raises:
        UserError: The preset or an override is wrong, as for `isnet train` or `isnet tune`.
    """
    parts = preset_parts(preset, preset_names())
    if "search" not in parts[-1].tree:
        return _run_values(parts, overrides)
    # A search: its own settings, then those of its trials.
    of_search = [override for override in overrides if override.startswith(("search.", "base=", "name="))]
    tree = apply_overrides(parts[-1].tree, of_search, SearchFile)
    file = build(SearchFile, tree)
    own = _values(SearchFile, file, [PresetPart(parts[-1].name, parts[-1].tree)], of_search, hidden=["overrides"])
    base = [*preset_parts(file.base), PresetPart(parts[-1].name, file.overrides)]
    return [*own, *_run_values(base, [override for override in overrides if override not in of_search])]


def _run_values(parts: Sequence[PresetPart], overrides: Sequence[str]) -> list[SectionValues]:
    tree: dict[str, Any] = {}
    for part in parts:
        tree = merge(tree, part.tree)
    return _values(run_schema(tree, overrides), build_run(tree, overrides), parts, overrides)


def _values(
    schema: type[Section],
    config: Section,
    parts: Sequence[PresetPart],
    overrides: Sequence[str],
    *,
    hidden: Sequence[str] = (),
) -> list[SectionValues]:
    """Joins declared settings, their values and their sources."""
    sources: dict[str, str] = {}
    for part in parts:
        sources |= dict.fromkeys(_names(part.tree), part.name)
    sources |= {override.partition("=")[0]: OVERRIDE for override in overrides}
    values = config.model_dump(mode="json", exclude_none=True)
    return [
        SectionValues(
            section,
            [
                SettingValue(setting, _value_at(values, setting.name), _source(setting.name, sources))
                for setting in section.settings
                if setting.name not in hidden
            ],
        )
        for section in sections(schema)
    ]


def _names(tree: Mapping[str, Any]) -> list[str]:
    return list(flatten(tree))


def _value_at(values: Any, name: str) -> Any:
    """Value at a dotted name, else None."""
    for part in name.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _source(name: str, sources: Mapping[str, str]) -> str:
    """Source of a setting, or of its last entry."""
    last = [source for entry, source in sources.items() if entry == name or entry.startswith(f"{name}.")]
    return last[-1] if last else DEFAULT
