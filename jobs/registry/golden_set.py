"""Measures versions on pictures that people marked.

Not the golden pictures of a package (`jobs.registry.golden`), which show that it still computes what it computed. A
golden set shows that a new version is no worse where people cared: its photos are the truth, and the holes are those
that people painted, dealt to the photos as in every evaluation.
"""

from __future__ import annotations

from typing import Any

from jobs.evaluation.evaluation import make_protocol
from jobs.evaluation.models import open_model
from jobs.registry.measure import measure_version
from trainplane.cluster.context import Context
from trainplane.registry.rules import GateRules
from trainplane.registry.versions import ModelVersion
from trainplane.storage import Store

_DEFAULT_SIZE = 256


def golden_sets(
    context: Context, store: Store, rules: GateRules, version: ModelVersion, current: ModelVersion | None
) -> list[tuple[dict[str, Any], dict[str, Any]]] | None:
    """Measures a version and production, for each rule.

    None without another version in production.
    """
    if current is None or current.version == version.version or not rules.golden_set:
        return None
    pairs = []
    for rule in rules.golden_set:
        size = open_model(version.address, context).size or _DEFAULT_SIZE
        protocol = make_protocol(context, rule.dataset, masks=rule.masks, size=size)
        ours, theirs = (measure_version(context, store, candidate, protocol) for candidate in (version, current))
        pairs.append((dict(ours.evaluation), dict(theirs.evaluation)))
    return pairs
