"""Reads the settings of many runs.

MLflow has those that were typed; all of them are in the artifact `config.json`. A list over a network reads these files
once: what a run began with does not change, so that the files stay in a cache.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from trainplane.config import safe_yaml
from trainplane.config.canonical import flatten
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.local.lists import FoundRun
from trainplane.tracking.query.records import local_folder, read_artifact
from trainplane.tracking.spool.meta import replace_file

_FILE = "config.json"
# Files that are read at once from a server.
_AT_ONCE = 16


def read_settings(server: TrackingServer, runs: Sequence[FoundRun], home: Path) -> list[dict[str, Any]]:
    """Returns the settings of each run, by dotted name.

    A setting that was typed later, to go on with the run, counts.
    """
    cache = home / "cache" / "configs"
    # Files of this disk are read as they are.
    if all(local_folder(run) is not None for run in runs):
        return [_settings(run, _parsed(read_artifact(server, run, _FILE, Path()))) for run in runs]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda run: _settings(run, _fetched(server, run, cache)), runs))


def _settings(run: FoundRun, config: Mapping[str, Any]) -> dict[str, Any]:
    settings = flatten(dict(config))
    settings |= {name: _value(text) for name, text in run.params.items() if name not in settings}
    for name, _, text in (word.partition("=") for word in run.tags.get("trainplane.typed", "").split()):
        if name in settings and text:
            settings[name] = _value(text)
    return settings


@lru_cache(maxsize=4096)
def _value(text: str) -> Any:
    try:
        return safe_yaml.load(text)
    except ValueError:
        return text


def _parsed(data: bytes | None) -> dict[str, Any]:
    try:
        tree = json.loads(data or b"{}")
    # A run of older code, or one that MLflow does not have whole.
    except ValueError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _fetched(server: TrackingServer, run: FoundRun, cache: Path) -> dict[str, Any]:
    copy = cache / run.run_id / _FILE
    if copy.exists():
        return _parsed(copy.read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        data = read_artifact(server, run, _FILE, Path(scratch))
    if data is not None:
        copy.parent.mkdir(parents=True, exist_ok=True)
        replace_file(copy, data)
    return _parsed(data)
