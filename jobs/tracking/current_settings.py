"""Settings and saved step of a run now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainplane.config.canonical import flatten
from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError, open_store
from trainplane.train.checkpoint.store import newest_first, read_meta

# The parameter with what was typed (`trainplane.train.run_page`, which imports what only training needs).
TYPED = "typed"


def saved_state(tags: Mapping[str, str]) -> tuple[int | None, dict[str, Any]]:
    """Step and settings of the newest checkpoint.

    None and {} where there is none, or the store is away.
    """
    if (folder := tags.get("trainplane.checkpoints")) is None:
        return None, {}
    try:
        store = open_store(folder)
        newest = next(newest_first(store), None)
        return (newest.step, flatten(read_meta(store, newest)["config"])) if newest else (None, {})
    except (UserError, RunFailed, StorageError, OSError, LookupError):
        return None, {}


def current_settings(recorded: Mapping[str, Any], stored: Mapping[str, Any], typed: str | None) -> dict[str, Any]:
    """Settings that a run goes on with.

    Args:
        recorded: settings by dotted name that MLflow has, as the run began.
        stored: settings in its newest checkpoint, by dotted name.
        typed: words that its last attempt was started with.
    """
    settings = dict(recorded)
    for name in settings.keys() & stored.keys():
        value = stored[name]
        settings[name] = value if isinstance(value, str) else str(value)
    for name, _, value in (word.partition("=") for word in (typed or "").split()):
        if name in settings and value:
            settings[name] = value
    return settings | ({TYPED: typed} if typed and TYPED in settings else {})
