"""A packing that stood still at any request does not touch what its successor packed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from trainplane.data.manifest import Dataset
from trainplane.data.pack.lease import Owner
from trainplane.data.pack.pack import pack
from trainplane.data.pack.shard_builder import PackItem
from trainplane.errors import UserError
from trainplane.storage.folder import FolderStore


class Photo:
    def __init__(self, name: str) -> None:
        self.identity, self.size = name, 600

    def item(self) -> PackItem:
        return PackItem(f"{self.identity}.jpg", self.identity.encode() * 100, "jpg")

    def portable(self) -> Photo:
        return self


class Asleep(FolderStore):
    """Does something else before its request of this number.

    Not before it deletes: stores delete without a condition, so that a pause of just that request is not guarded.
    """

    def __init__(self, root: Path, number: int, meanwhile: Callable[[], Any]) -> None:
        super().__init__(root)
        self.left, self.meanwhile = number, meanwhile

    def _request(self) -> None:
        self.left -= 1
        if self.left == -1:
            self.meanwhile()

    def read(self, key: str, **options: Any) -> bytes:
        self._request()
        return super().read(key, **options)

    def create(self, key: str, data: bytes) -> bool:
        self._request()
        return super().create(key, data)

    def write(self, key: str, data: bytes | Path) -> None:
        self._request()
        super().write(key, data)

    def size(self, key: str) -> int | None:
        self._request()
        return super().size(key)

    def list(self, prefix: str = "") -> Iterator[Any]:
        self._request()
        return super().list(prefix)


def pack_names(store: FolderStore, letter: str, count: int, **options: Any) -> Dataset:
    names = (Photo(f"{letter}{number}") for number in range(count))
    return pack(names, store, name="n", split="train", shard_bytes=6000, how={}, **options)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("older", [False, True], ids=["a fresh place", "over a dataset"])
def test_a_packing_that_was_suspended_spoils_nothing_of_its_successor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    fresh = {}
    for letter, count in (("a", 4), ("b", 6)):
        pack_names(FolderStore(tmp_path / letter), letter, count)
        fresh[letter] = content(tmp_path / letter)
    assert len(fresh["b"]) > len(fresh["a"]) > 3
    # To the successor every owner is gone, as one on another host whose lease stood still.
    monkeypatch.setattr(Owner, "is_gone", lambda self: True)
    ends = []
    for number in range(200):
        place = tmp_path / f"place-{number}"
        if older:
            pack_names(FolderStore(place), "c", 4)

        def succeed(place: Path = place) -> None:
            # Refused where the first one's manifest is there already.
            with suppress(UserError):
                pack_names(FolderStore(place), "b", 6, replace=older)

        store = Asleep(place, number, succeed)
        try:
            pack_names(store, "a", 4, replace=older)
            ends.append("a")
        except UserError:
            ends.append("b")
        if store.left >= 0:
            break
        # A note that came late stays beside the manifest, where the next packing removes it.
        there = {name: data for name, data in content(place).items() if not name.startswith("packing.shard-")}
        # Whoever ended last without an error is there, whole.
        # One of the two datasets is there, whole; not the first one's if that one stopped.
        assert there in [fresh["b"], *([fresh["a"]] if ends[-1] == "a" else [])], (number, sorted(there))
    else:
        raise AssertionError("a packing of so few photos has fewer requests")
    assert ends.count("b") > 6


def test_a_packing_killed_in_its_first_lease_leaves_nothing_for_ever(tmp_path: Path) -> None:
    def die() -> None:
        os.link = lambda *args, **options: os.kill(os.getpid(), signal.SIGKILL)
        pack_names(FolderStore(tmp_path), "a", 6)

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join(60)
    assert [path.name[:6] for path in tmp_path.iterdir()] == [".part~"]
    pack_names(FolderStore(tmp_path), "a", 6)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith((".part", "packing."))]
