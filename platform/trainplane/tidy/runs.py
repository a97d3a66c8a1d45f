"""Runs and their checkpoints: listing and removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainplane.storage import Entry, NotFound, Store, open_store
from trainplane.tidy.act import StillUsed
from trainplane.tidy.hidden import SUFFIX, hide, restore
from trainplane.tidy.inventory import Item, place, unread
from trainplane.tidy.links import check_no_links
from trainplane.train.checkpoint import pins
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.content import parse_object
from trainplane.train.checkpoint.fencing import KEY as ATTEMPT
from trainplane.train.checkpoint.fencing import FencingToken
from trainplane.train.checkpoint.retention import RetentionRules, steps_to_keep

_RUN = "run.json"


def list_runs(address: str, alive: Mapping[str, str]) -> Iterator[Item]:
    """Yields all runs and checkpoints of a store.

    Args:
        address: Of the store of checkpoints.
        alive: Addresses of runs that something outside needs, with who it is.
    """
    check_no_links(address)
    alive = {place(run): who for run, who in alive.items()}
    store = open_store(address)
    folders: dict[str, dict[str, Entry]] = {}
    for entry in store.list():
        folder, _, key = entry.key.partition("/")
        if key:
            folders.setdefault(folder, {})[key] = entry
    for folder, entries in folders.items():
        # Other folders, such as those of searches, are no runs. A token alone is what a killed removal left of one.
        if _RUN in entries or entries.keys() == {ATTEMPT}:
            yield from _items(store.child(folder), entries, alive)


def _items(store: Store, entries: Mapping[str, Entry], alive: Mapping[str, str]) -> Iterator[Item]:
    run = store.address
    stamp = entries[ATTEMPT].stamp if ATTEMPT in entries else ""
    present = checkpoints.committed(store, abandoned=True)
    manifests = {checkpoint.key: checkpoint.manifest for checkpoint in present}
    pinned = _pins(entries)
    about = _about(store)
    started = (about.get("config") or {}).get("train", {}).get("start_from")
    # All checkpoints of a run are of the same datasets.
    read = {*(about.get("datasets") or ()), *(manifest.get("dataset_digest") for manifest in manifests.values())}
    digests = {f"digest:{digest}" for digest in {*read, *_digests_in(about.get("config"))} - {None}}
    running = alive.get(place(run), "")
    good = [checkpoint for checkpoint in present if f"{checkpoint.key}/{checkpoints.ABANDONED}" not in entries]
    own_rules = {f"{run}/{key}" for key in _kept(good, (about.get("config") or {}).get("train", {}))}
    yield Item(
        "run",
        run,
        sum(entry.size for key, entry in entries.items() if not key.startswith("step-")),
        # All of its files: a run is as old as its youngest one.
        max(entry.written_s for entry in entries.values()),
        names=frozenset({place(run)}),
        needs=frozenset({*digests, *own_rules, *([started, place(started)] if started else [])}),
        needed_by=running,
        stamp=stamp,
    )
    for folder, files in _folders(entries).items():
        is_damaged = folder not in manifests and f"{folder}/{checkpoints.MANIFEST}" in entries
        if is_damaged and not digests:
            raise unread(f"{run}/{folder}/{checkpoints.MANIFEST}", "it is damaged, or of newer code")
        broken = "who can read its manifest, which is damaged or of newer code" if is_damaged else ""
        yield Item(
            "checkpoint",
            f"{run}/{folder}",
            sum(entry.size for entry in files),
            max(entry.written_s for entry in files),
            names=frozenset({place(f"{run}/{folder}")}),
            needs=frozenset({run, *digests}) if folder in manifests or is_damaged else frozenset(),
            # While it runs, its own rules remove its checkpoints.
            needed_by=pinned.get(folder, "") or running or broken,
            stamp=stamp,
        )


def _folders(entries: Mapping[str, Entry]) -> dict[str, list[Entry]]:
    folders: dict[str, list[Entry]] = {}
    for key, entry in entries.items():
        folder, _, file = key.partition("/")
        if file and folder.startswith("step-"):
            folders.setdefault(folder, []).append(entry)
    return folders


def _pins(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Owners of pins, by the folder of the checkpoint."""
    from urllib.parse import unquote

    pinned = {}
    for key in entries:
        first, _, rest = key.partition("/")
        folder, _, owner = rest.partition("/")
        if first == pins.FOLDER and owner:
            pinned[folder] = f"pinned by {unquote(owner.removesuffix('.json'))}"
    return pinned


def _about(store: Store) -> dict[str, Any]:
    try:
        return parse_object(store.read(_RUN))
    except NotFound:
        # Another call has removed it meanwhile.
        return {}
    except ValueError as error:
        raise unread(f"{store.address}/{_RUN}", error) from None


def _digests_in(settings: Any) -> Iterator[str]:
    """Yields the digests that settings require, such as of masks."""
    for name, value in settings.items() if isinstance(settings, dict) else ():
        if name.endswith("_digest"):
            yield from value.values() if isinstance(value, dict) else [value] if value else []
        else:
            yield from _digests_in(value)


def _kept(present: list[checkpoints.Checkpoint], train: Mapping[str, Any]) -> list[str]:
    """Folders that the rules of an ended run keep."""
    metric = train.get("best_metric")
    rules = RetentionRules(
        last=1,
        best=int(train.get("keep_best") or 0),
        metric=metric,
        mode=train.get("best_mode") or "max",
        every=train.get("keep_every"),
        # Its newest checkpoint is its last one, whatever it was meant to reach.
        final=max((checkpoint.step for checkpoint in present), default=0),
    )
    metrics = {c.step: c.metrics[metric] for c in present if metric is not None and metric in c.metrics}
    steps = steps_to_keep([c.step for c in present], metrics=metrics, pins=(), rules=rules)
    return [checkpoint.key for checkpoint in present if checkpoint.step in steps]


class RunRemover:
    """Removes checkpoints and runs, fenced against new attempts."""

    def __init__(self) -> None:
        self._tokens: dict[str, FencingToken] = {}

    def prepare(self, item: Item) -> None:
        """Takes the run's token, if no attempt has begun since."""
        run = _run_of(item)
        if run not in self._tokens:
            token = FencingToken.acquire_idle(open_store(run), item.stamp)
            if token is None:
                raise StillUsed("an attempt to go on with its run has begun since")
            self._tokens[run] = token

    def restore(self, item: Item) -> None:
        """Does nothing: the next attempt takes its own token."""

    def remove(self, item: Item) -> None:
        """Deletes a checkpoint, or a run without checkpoints."""
        run = _run_of(item)
        store, check = open_store(run), self._tokens[run].check
        if item.kind == "checkpoint":
            _remove_checkpoint(store, item.address.rpartition("/")[2], self._tokens[run])
            return
        root, _, name = run.rpartition("/")
        above, keys = open_store(root), [entry.key for entry in store.list()]
        if left := [key for key in keys if key.startswith("step-")]:
            raise StillUsed(f"{left[0].partition('/')[0]} of it stays")
        # The token last: it is what stops this process where the run begins again.
        for key in sorted(keys, key=lambda key: (key == ATTEMPT, key == _RUN, key)):
            check()
            # From the store above it, so that no empty folder is left.
            above.delete(f"{name}/{key}")


def _remove_checkpoint(store: Store, folder: str, token: FencingToken) -> None:
    token.check()
    key = f"{folder}/{checkpoints.MANIFEST}"
    # Who pins a checkpoint pins first and looks then, so of the two one sees the other.
    hide(store, key)
    try:
        token.check()
        if folder in pins.pinned_folders(store):
            raise StillUsed("it was pinned meanwhile")
    except BaseException:
        restore(store, key)
        raise
    for entry in list(store.list(f"{folder}/")):
        # Last, so that a kill before it leaves what can come back, or the rest of something that does not exist.
        if entry.key != key + SUFFIX:
            token.check()
            store.delete(entry.key)
    store.delete(key + SUFFIX)


def restore_hidden(address: str) -> int:
    """Puts back the checkpoints that a killed removal left hidden."""
    store, count = open_store(address), 0
    entries = {entry.key for entry in store.list()}
    for key in sorted(entries):
        manifest = key.removesuffix(SUFFIX)
        if manifest == key or manifest.rpartition("/")[2] != checkpoints.MANIFEST:
            continue
        folder = manifest.rpartition("/")[0]
        # Of a half deleted one, nothing can come back.
        if {name.rpartition("/")[2] for name in entries if name.startswith(f"{folder}/")} >= checkpoints.FILES:
            count += restore(store, manifest)
    return count


def _run_of(item: Item) -> str:
    return item.address if item.kind == "run" else item.address.rpartition("/")[0]
