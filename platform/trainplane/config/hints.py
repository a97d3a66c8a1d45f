"""Finds the setting that was meant by an unknown name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from trainplane.command_line import command_line
from trainplane.config.schema import Setting, settings
from trainplane.config.section import Section

# Below this similarity a suggestion misleads.
_SIMILAR = 0.6
# More names than this are looked up, not listed.
_LISTED = 12


def hint(schemas: Sequence[type[Section]], name: str, value: str | None = None) -> str:
    """Hint such as `; did you mean train.steps=5?`."""
    declared = [setting for schema in schemas for setting in settings(schema)]
    candidates = meant(declared, name)
    if not candidates:
        section = name.rpartition(".")[0]
        beside = [setting.name for setting in declared if section and setting.name.rpartition(".")[0] == section]
        names = ", ".join(beside) if len(beside) <= _LISTED else ""
        return f"; known: {names}" if names else f"; `{command_line('config', 'show', 'PRESET')}` lists the settings"
    return f"; did you mean {' or '.join(typed(setting, name, value) for setting in candidates)}?"


def typed(setting: Setting, name: str, value: str | None) -> str:
    """Setting as it should be typed instead."""
    if _leaf(name) in setting.related:
        return f"{setting.name}=… ({setting.kind})"
    return setting.name if value is None else f"{setting.name}={value}"


def meant(declared: Sequence[Setting], name: str) -> list[Setting]:
    """Settings that a name may stand for, at most three.

    Dashes and capitals do not matter. The name may be that of another section's setting, or another program's.
    """
    plain = name.lower().replace("-", "_")
    section, leaf = plain.rpartition(".")[0], _leaf(plain)
    beside = [setting for setting in declared if setting.name.rpartition(".")[0] == section]
    # The dot may be another sign: train-steps, train_steps, train/steps.
    dotted = re.sub(r"[^a-z0-9]", "_", plain)
    exact = (
        [setting for setting in declared if setting.name.replace(".", "_") == dotted],
        [setting for setting in declared if section and setting.name.endswith(f".{plain}")],
        [setting for setting in beside if leaf in (*setting.also, *setting.related)],
        [setting for setting in declared if _leaf(setting.name) == leaf],
        [setting for setting in declared if leaf in (*setting.also, *setting.related)],
    )
    if candidates := next(filter(None, exact), None):
        return candidates[:3]
    # Similar names: within the section, in a section of a similar name, then anywhere.
    names = dict.fromkeys(setting.name.rpartition(".")[0] for setting in declared)
    similar = difflib.get_close_matches(section, list(names), n=1, cutoff=_SIMILAR) if section and not beside else []
    for group in (
        beside if section else [],
        [setting for setting in declared if setting.name.rpartition(".")[0] in similar],
        declared,
    ):
        # Of equal names the first one.
        if near := _near(leaf, {_leaf(setting.name): setting for setting in reversed(group)}):
            return near
    return []


def _near(name: str, by_name: dict[str, Setting]) -> list[Setting]:
    return [by_name[close] for close in difflib.get_close_matches(name, by_name, n=1, cutoff=_SIMILAR)]


def _leaf(name: str) -> str:
    return name.lower().replace("-", "_").rpartition(".")[2]
