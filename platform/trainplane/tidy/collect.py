"""Looks at everything that a context stores."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

from trainplane.cluster.context import Context
from trainplane.storage import open_store
from trainplane.tidy.act import Remover
from trainplane.tidy.datasets import DatasetRemover, list_datasets
from trainplane.tidy.decide import DAY_S
from trainplane.tidy.inventory import Inventory, Item, Kind, place
from trainplane.tidy.local import CacheRemover, SpoolRemover, list_local
from trainplane.tidy.runs import RunRemover, list_runs
from trainplane.tidy.versions import VersionRemover, list_versions
from trainplane.tracking.search_runs import Conditions, search_runs
from trainplane.train.run_key import holder_of

_CHECKPOINTS, _DIGEST = "trainplane.checkpoints", "trainplane.dataset."
# A run that MLflow does not know is taken for a running one for so long after its last change.
_STRANGE_S = 30 * DAY_S


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
    recorded: set[str] = set()
    for run in search_runs(server, limit=None, conditions=Conditions(), with_settings=True).runs:
        folder = run.tags.get(_CHECKPOINTS, "")
        recorded.add(place(folder))
        if run.status == "RUNNING":
            who = f"the running job of run {run.run_id}"
            alive[folder] = who
            digests |= {f"digest:{value}": who for name, value in run.tags.items() if name.startswith(_DIGEST)}
    items: list[Item] = [
        *_perhaps_alive(list(list_runs(context.checkpoints, alive)), recorded, context.home, time.time()),
        *list_datasets(context.datasets, resolve=context.dataset, with_newest=with_newest),
        *list_versions(server, open_store(context.audit)),
        *list_local(context.home),
    ]
    outside = digests | dict(searches) | {place(address): who for address, who in searches.items()}
    return Inventory(tuple(_with_need(item, outside) for item in items), time.time())


def _perhaps_alive(items: list[Item], recorded: AbstractSet[str], home: Path, now_s: float) -> Iterator[Item]:
    """Keeps runs whose end MLflow cannot tell."""
    reasons: dict[str, str] = {}
    for run in (item for item in items if item.kind == "run"):
        holder = holder_of(home, run.address.rpartition("/")[2])
        if holder is not None:
            reasons[run.address] = f"process {holder} of this machine, which trains it"
        # It may run on another machine, which records it elsewhere or while MLflow is away.
        elif not recorded & run.names and now_s - run.used_s < _STRANGE_S:
            reasons[run.address] = (
                f"whoever trains it: MLflow here does not know it, and it changed less than {_STRANGE_S / DAY_S:.0f} "
                "days ago"
            )
    for item in items:
        run_address = item.address if item.kind == "run" else item.address.rpartition("/")[0]
        reason = reasons.get(run_address, "")
        yield replace(item, needed_by=reason) if reason and not item.needed_by else item


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
