"""Datasets and their versions: listing and removal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from trainplane.data.grow.lineage import lineage_of
from trainplane.data.grow.sharing import shard_addresses
from trainplane.data.grow.versions import VersionName
from trainplane.data.index import INDEX_NAME
from trainplane.data.manifest import MANIFEST_NAME, Dataset, Manifest
from trainplane.data.pack.lease import is_note, latest_lease
from trainplane.data.shard import is_shard
from trainplane.errors import UserError
from trainplane.storage import Entry, Store, open_store
from trainplane.tidy.act import StillUsed
from trainplane.tidy.hidden import SUFFIX, hide, restore
from trainplane.tidy.inventory import Item, unread
from trainplane.tidy.links import check_no_links


def list_datasets(address: str, *, resolve: Callable[[str], str], with_newest: bool) -> Iterator[Item]:
    """Yields all versions of a store's datasets.

    Args:
        address: Of the store.
        resolve: Address of a dataset's name.
        with_newest: False: a dataset's plain name means its newest version, so that one is needed.
    """
    check_no_links(address)
    folders = _folders(open_store(address))
    versions = {folder: VersionName.of(f"{address}/{folder}") for folder in folders}
    of_root: dict[str, list[VersionName]] = {}
    for folder, entries in folders.items():
        if _manifest_key(entries):
            of_root.setdefault(versions[folder].root, []).append(versions[folder])
    newest = {root: max(version.number for version in family) for root, family in of_root.items()}
    for folder, entries in folders.items():
        version = versions[folder]
        item = _item(open_store(version.address), entries, of_root, resolve)
        is_newest = bool(_manifest_key(entries)) and version.number == newest[version.root]
        if is_newest and not item.needed_by and not with_newest:
            item = _needed(item, f"{version.root.rpartition('/')[2]} means it")
        yield item


def _folders(store: Store) -> dict[str, dict[str, Entry]]:
    folders: dict[str, dict[str, Entry]] = {}
    for entry in store.list():
        folder, _, name = entry.key.rpartition("/")
        if folder and _is_ours(name):
            folders.setdefault(folder, {})[name] = entry
    return folders


def _is_ours(name: str) -> bool:
    return is_shard(name) or is_note(name) or name in (INDEX_NAME, MANIFEST_NAME, MANIFEST_NAME + SUFFIX)


def _manifest_key(entries: Mapping[str, Entry]) -> str:
    return next((key for key in (MANIFEST_NAME, MANIFEST_NAME + SUFFIX) if key in entries), "")


def _item(
    store: Store,
    entries: Mapping[str, Entry],
    of_root: Mapping[str, list[VersionName]],
    resolve: Callable[[str], str],
) -> Item:
    size = sum(entry.size for entry in entries.values())
    key = _manifest_key(entries)
    stamp = entries[key].stamp if key else ""
    item = Item("dataset", store.address, size, max(entry.written_s for entry in entries.values()), stamp=stamp)
    if not key:
        # A packing that did not end: its notes serve the next try.
        return item
    try:
        dataset = Dataset(store, Manifest.from_json(store.read(key)))
        shards = list(shard_addresses(dataset))
    except (UserError, ValueError, LookupError) as error:
        # It may share the shards of any other.
        raise unread(f"{store.address}/{key}", error) from None
    # Its own folder is among them, and means nothing.
    needs = {shard.rpartition("/")[0] for shard in shards} - {store.address}
    lineage = lineage_of(dataset)
    for name in lineage.facts.get("apart", ()) if lineage else ():
        # What was ever in there stays out, so every version of it is asked.
        needs |= {version.address for version in of_root.get(VersionName.of(resolve(str(name))).root, ())}
    return Item(
        "dataset",
        item.address,
        item.bytes,
        item.used_s,
        names=frozenset({f"digest:{dataset.digest}"}),
        needs=frozenset(needs),
        stamp=stamp,
    )


def _needed(item: Item, by: str) -> Item:
    return Item(item.kind, item.address, item.bytes, item.used_s, item.names, item.needs, by, item.stamp)


class DatasetRemover:
    """Removes versions of datasets; a hidden one can come back."""

    def prepare(self, item: Item) -> None:
        """Hides the manifest."""
        store = open_store(item.address)
        _refuse_packing(store)
        now = {entry.key: entry for entry in store.list(MANIFEST_NAME)}
        key = _manifest_key(now)
        if (now[key].stamp if key else "") != item.stamp:
            raise StillUsed("it was packed meanwhile")
        hide(store, MANIFEST_NAME)

    def restore(self, item: Item) -> None:
        """Shows the manifest again."""
        restore(open_store(item.address), MANIFEST_NAME)

    def remove(self, item: Item) -> None:
        """Deletes shards, index and notes; later versions have their own."""
        store = open_store(item.address)
        _refuse_packing(store)
        if store.size(MANIFEST_NAME) is not None:
            raise StillUsed("it was packed again meanwhile")
        keys = [entry.key for entry in store.list() if _is_ours(entry.key)]
        # The hidden manifest first: what is half deleted must not come back.
        for key in sorted(keys, key=lambda key: (key != MANIFEST_NAME + SUFFIX, key)):
            store.delete(key)


def restore_hidden(address: str) -> int:
    """Shows the datasets again that a killed removal left hidden."""
    store = open_store(address)
    keys = [entry.key for entry in store.list() if entry.key.endswith(f"/{MANIFEST_NAME}{SUFFIX}")]
    return sum(restore(store, key.removesuffix(SUFFIX)) for key in keys)


def _refuse_packing(store: Store) -> None:
    lease = latest_lease(store)
    if lease is not None and lease[1] is not None and lease[1].is_gone() is False:
        raise StillUsed(f"a packing is running there (process {lease[1].pid} on {lease[1].host})")
