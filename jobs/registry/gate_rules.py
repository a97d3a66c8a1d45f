"""Finds the rules of a promotion."""

from __future__ import annotations

import os
from pathlib import Path

from jobs.presets import PRESETS
from trainplane.cluster.context import Context
from trainplane.config.load import build, read_yaml
from trainplane.data.named import open_dataset
from trainplane.errors import UserError
from trainplane.registry.rules import GateRules
from trainplane.registry.significance import smallest_p
from trainplane.storage import StorageError


def rules_file(named: str | os.PathLike[str] | None) -> Path:
    """File of `--gates`: a shipped name, a file, or default."""
    return PRESETS / "gates" / f"{named or 'default'}.yaml" if named in (None, "default", "small") else Path(named)


def load_rules(named: str | os.PathLike[str] | None) -> GateRules:
    """Reads the rules of `--gates`."""
    return build(GateRules, read_yaml(rules_file(named)))


def gates_option(dataset: str, context: Context) -> tuple[str, ...]:
    """Option for gates that so few held-out pictures can pass."""
    try:
        pictures = open_dataset(dataset, context).num_samples
    except (UserError, StorageError, OSError):
        return ()
    sure = [rule.p_below for rule in load_rules(None).beats if rule.p_below is not None]
    return ("--gates", "small") if any(smallest_p(pictures) >= p for p in sure) else ()
