"""Settings of a call as the words of a command."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from trainplane.config import safe_yaml

# `{"train.steps": 200}`, or words as on the command line: `["train.steps=200"]`.
Settings = Mapping[str, object] | Sequence[str]


def words_of(settings: Settings) -> tuple[str, ...]:
    """Returns settings as `section.name=value`."""
    if isinstance(settings, Mapping):
        return tuple(f"{name}={_text(value)}" for name, value in settings.items())
    # One word alone.
    return (settings,) if isinstance(settings, str) else tuple(settings)


def _text(value: object) -> str:
    """Value as YAML in one line."""
    if not isinstance(value, str):
        return json.dumps(value, default=str)
    # A text that YAML would read as something else is quoted.
    try:
        is_plain = safe_yaml.load(value) == value
    except ValueError:
        is_plain = False
    return value if is_plain else json.dumps(value)
