"""Versions of a dataset, and their addresses.

The first version of `mine` is `mine` itself; later ones are `mine/versions/000002`, and so on. Each is a dataset with a
manifest of its own and never changes. `mine` means the newest, `mine@1` the first, `mine@3f2a91c0` the one with this
digest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainplane.data.manifest import MANIFEST_NAME, Dataset, NoDataset
from trainplane.errors import UserError
from trainplane.storage import NoBucket, StorageError, Store, open_store

FOLDER = "versions"

_KEY = re.compile(rf"{FOLDER}/([0-9]{{6}})/{re.escape(MANIFEST_NAME)}")
_ADDRESS = re.compile(rf"(?P<root>.+)/{FOLDER}/(?P<number>[0-9]{{6}})")
_TYPED = re.compile(r"(?P<root>.+)@(?P<version>[0-9]{1,6}|[0-9a-f]{8,64})")


@dataclass(frozen=True)
class VersionName:
    """Dataset and number of a version."""

    root: str  # address of the dataset's first version
    number: int  # from 1

    @classmethod
    def of(cls, address: str) -> VersionName:
        """Reads the address of a version's own folder."""
        match = _ADDRESS.fullmatch(address)
        return cls(match["root"], int(match["number"])) if match else cls(address, 1)

    @property
    def address(self) -> str:
        """Address of the version's folder."""
        return self.root if self.number == 1 else f"{self.root}/{FOLDER}/{self.number:06d}"

    @property
    def typed(self) -> str:
        """Address that always means this version."""
        return f"{self.root}@{self.number}"


def later_versions(store: Store) -> list[int]:
    """Numbers of a dataset's versions after the first, in order."""
    try:
        keys = [_KEY.fullmatch(entry.key) for entry in store.list(f"{FOLDER}/")]
    except NoBucket:
        return []
    return sorted(int(match[1]) for match in keys if match)


def all_versions(root: str) -> list[VersionName]:
    """All versions of a dataset that exist, oldest first."""
    store = open_store(root)
    first = [1] if store.size(MANIFEST_NAME) is not None else []
    return [VersionName(root, number) for number in first + later_versions(store)]


def next_version(root: str) -> VersionName:
    """Version that comes after all others of a dataset."""
    return VersionName(root, max([1, *later_versions(open_store(root))]) + 1)


def find_version(address: str) -> str:
    """Returns the address of the version that was typed.

    Args:
        address: of a dataset, for its newest version, or with `@NUMBER` or `@DIGEST` behind it.

    Raises:
        NoDataset: If there is no such version.
    """
    match = _TYPED.fullmatch(address)
    if match is None:
        numbers = later_versions(open_store(address))
        return VersionName(address, numbers[-1]).address if numbers else address
    root, version = match["root"], match["version"]
    if len(version) <= 6:
        return _by_number(root, int(version))
    return _by_digest(root, version)


def pinned(address: str) -> str:
    """Address that goes on meaning this version when others follow."""
    # Without later ones the plain address is the one that people know.
    version = VersionName.of(address)
    return version.typed if later_versions(open_store(version.root)) else address


def _by_number(root: str, number: int) -> str:
    versions = all_versions(root)
    for version in versions:
        if version.number == number:
            return version.address
    present = ", ".join(f"@{version.number}" for version in versions) or "none"
    raise NoDataset(f"{root}: there is no version {number} (there is: {present}); name one of these")


def _by_digest(root: str, digest: str) -> str:
    digests = {}
    for version in all_versions(root):
        try:
            digests[version] = Dataset.open(version.address).digest
        except (UserError, StorageError):
            continue
        if digests[version].startswith(digest):
            return version.address
    present = ", ".join(f"@{version.number} is {value[:12]}" for version, value in digests.items()) or "none"
    raise NoDataset(f"{root}: no version has the digest {digest[:12]} (there is: {present}); name one of these")
