"""Looks at everything that a context stores."""

from __future__ import annotations

import time
from collections.abc import Mapping

from trainplane.cluster.context import Context
from trainplane.storage import open_store
from trainplane.tidy.act import Remover
from trainplane.tidy.datasets import DatasetRemover, list_datasets
from trainplane.tidy.inventory import Inventory, Item, Kind
from trainplane.tidy.local import CacheRemover, SpoolRemover, list_local
from trainplane.tidy.runs import RunRemover, list_runs
from trainplane.tidy.versions import VersionRemover, list_versions
from trainplane.tracking.search_runs import Conditions, search_runs

_CHECKPOINTS, _DIGEST = "trainplane.checkpoints", "trainplane.dataset."


def collect(context: Context, searches: Mapping[str, str], *, with_newest: bool = False) -> Inventory:
    """Lists all items of a context.

    MLflow must answer: it knows the versions and the runs that are alive.

    Args:
        context: Where things are.
        searches: Addresses of checkpoints and runs that searches need, with who they are.
        with_newest: True counts newest versions of datasets as needed only where something uses them.
    """
    server = context.tracking_server
    alive: dict[str, str] = {}
    digests: dict[str, str] = {}
    for run in search_runs(server, limit=None, conditions=Conditions(status="RUNNING"), with_settings=True).runs:
        who = f"the running job of run {run.run_id}"
        alive[run.tags.get(_CHECKPOINTS, "")] = who
        digests |= {f"digest:{value}": who for name, value in run.tags.items() if name.startswith(_DIGEST)}
    items: list[Item] = [
        *list_runs(context.checkpoints, alive),
        *list_datasets(context.datasets, resolve=context.dataset, with_newest=with_newest),
        *list_versions(server, open_store(context.audit)),
        *list_local(context.home),
    ]
    outside = digests | dict(searches)
    return Inventory(tuple(_with_need(item, outside) for item in items), time.time())


def _with_need(item: Item, outside: Mapping[str, str]) -> Item:
    who = next((outside[name] for name in (item.address, *sorted(item.names)) if name in outside), "")
    if item.needed_by or not who:
        return item
    return Item(item.kind, item.address, item.bytes, item.used_s, item.names, item.needs, who, item.stamp)


def removers(context: Context) -> dict[Kind, Remover]:
    """Removers of all kinds."""
    runs = RunRemover()
    return {
        "run": runs,
        "checkpoint": runs,
        "dataset": DatasetRemover(),
        "version": VersionRemover(context.tracking_server, open_store(context.audit)),
        "cache": CacheRemover(),
        "spool": SpoolRemover(),
    }
