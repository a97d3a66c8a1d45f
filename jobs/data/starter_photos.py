"""Photos of the starter, from packages whose licences allow it.

    python -m jobs.data.starter_photos PACKAGES PHOTOS

PACKAGES has the unpacked Debian packages, one folder each (`dpkg-deb -x FILE.deb PACKAGES/NAME`); photos of Python
packages come from this installation. Every photo of `jobs/starter/photos.csv` is copied to PHOTOS if its sha256 fits.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import importlib.util
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

from jobs import starter
from trainplane.errors import UserError

TABLE = starter.FOLDER / "photos.csv"
_RCC = ".rcc:"


def table() -> list[dict[str, str]]:
    """Rows of photos: file, package, path, author, licence, sha256."""
    with TABLE.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def copy_photos(packages: Path, photos: Path) -> int:
    """Copies all photos, or fails naming the missing ones."""
    photos.mkdir(parents=True, exist_ok=True)
    missing, containers = [], dict[Path, dict[str, bytes]]()
    for row in table():
        data = _read(row, packages, containers)
        if data is None or hashlib.sha256(data).hexdigest() != row["sha256"]:
            missing.append(f"{row['package']}: {row['path']}")
            continue
        (photos / row["file"]).write_bytes(data)
    if missing:
        raise UserError(
            f"{packages}: {len(missing)} of {len(table())} photos are missing or of another version, the first "
            f"{missing[0]}; unpack the packages of {TABLE.name} there, each into a folder of its name"
        )
    return len(table())


def _read(row: Mapping[str, str], packages: Path, containers: dict[Path, dict[str, bytes]]) -> bytes | None:
    folder = packages / row["package"]
    if _RCC in row["path"]:
        file, _, member = row["path"].partition(":")
        path = folder / file
        if path not in containers:
            containers[path] = dict(qt_resources(path.read_bytes())) if path.is_file() else {}
        return containers[path].get(member)
    # A Python package, found without importing it.
    name, _, inside = row["path"].partition("/")
    spec = None if folder.is_dir() else importlib.util.find_spec(name)
    path = folder / row["path"] if spec is None or spec.origin is None else Path(spec.origin).parent / inside
    return path.read_bytes() if path.is_file() else None


def qt_resources(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yields the files inside a Qt resource file, as stored.

    The format is Qt's `rcc`: a header, then a tree of nodes, names and data, big-endian.
    """
    magic, version, tree, contents, names = struct.unpack(">4s4I", data[:20])
    if magic != b"qres":
        raise UserError("this is no resource file of Qt; need one that begins with 'qres'")
    node_bytes = 14 if version == 1 else 22

    def name_at(offset: int) -> str:
        start = names + offset
        (length,) = struct.unpack(">H", data[start : start + 2])
        return data[start + 6 : start + 6 + 2 * length].decode("utf-16-be")

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        start = tree + node * node_bytes
        name, flags, count, first = struct.unpack(">IHII", data[start : start + 14])
        path = f"{path}/{name_at(name)}" if node else ""
        # Bit 2 marks a folder, which has the number and the first of its entries.
        if flags & 2:
            for entry in range(first, first + count):
                yield from walk(entry, path)
            return
        # A file has the place of its data here, which begin with their length.
        place = contents + first
        (length,) = struct.unpack(">I", data[place : place + 4])
        yield path, data[place + 4 : place + 4 + length]

    yield from walk(0, "")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="copy the starter's photos out of unpacked packages")
    parser.add_argument("packages", type=Path)
    parser.add_argument("photos", type=Path)
    arguments = parser.parse_args()
    print(f"{copy_photos(arguments.packages, arguments.photos)} photos in {arguments.photos}")
