"""Opens datasets by the name that was typed."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.grow.versions import VersionName, find_version
from trainplane.data.manifest import MANIFEST_NAME, Dataset, NoDataset
from trainplane.errors import UserError, nearest
from trainplane.storage import StorageError, open_store

# Objects of a store that are looked at for names of datasets.
_LISTED = 10_000


def dataset_names(address: str, *, most: int | None = None) -> list[str]:
    """Names of the datasets below a store's address, sorted.

    Args:
        address: of the store of datasets.
        most: number of objects to look at; None: all.
    """
    parts = (entry.key.rpartition("/") for entry in islice(open_store(address).list(), most))
    versions = [VersionName.of(folder) for folder, _, file in parts if folder and file == MANIFEST_NAME]
    # A dataset that has one version goes by its plain name.
    grown = {version.root for version in versions if version.number > 1}
    ordered = sorted(versions, key=lambda version: (version.root, version.number))
    return [version.typed if version.root in grown else version.root for version in ordered]


def open_dataset(name: str, context: Context) -> Dataset:
    """Opens a dataset by its name or address.

    Of several versions the newest, or the one behind `@`. The error about a wrong name lists those of the store.
    """
    address = context.dataset(name)
    try:
        return Dataset.open(find_version(address))
    except NoDataset as error:
        names: list[str] = []
        if address.startswith(f"{context.datasets}/"):
            with suppress(UserError, StorageError, OSError):
                names = dataset_names(context.datasets, most=_LISTED)
        if not names:
            raise
        hint = nearest(address.removeprefix(f"{context.datasets}/"), names)
        listing = "" if hint.endswith("?") else f"; `{command_line('data', 'list')}` describes them"
        raise NoDataset(f"{str(error).partition(';')[0]}{hint}{listing}") from error
