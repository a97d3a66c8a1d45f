"""Folders that travel with a job: size check and digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from trainplane.errors import UserError

# Ray refuses larger uploads with an answer that names no file (ray#38566).
MAX_UPLOAD_BYTES = 100 * 2**20


def check_upload(folder: Path) -> None:
    """Checks that a folder can be sent.

    Raises `UserError` that names its largest files if it is too large, or something that is no file.
    """
    try:
        sizes = {path: path.stat().st_size for path in files_to_send(folder)}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); take it out of {folder}") from error
    total = sum(sizes.values())
    if total > MAX_UPLOAD_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        names = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise UserError(
            f"{folder}: {total / 2**20:.0f} MiB to upload, at most {MAX_UPLOAD_BYTES // 2**20} are accepted; "
            f"move away the largest: {names}"
        )


def folder_digest(folder: Path) -> str:
    """Hashes names and contents of all files: 64 hexadecimal digits."""
    sha = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        # A zero byte ends the name, and the digest has a fixed length: no two folders give the same bytes.
        sha.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def files_to_send(folder: Path, parents: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Yields the files of a copy, following links."""
    # Ray follows links when it copies, so a link to a parent folder would never end.
    real = folder.resolve()
    if real in parents:
        raise UserError(f"{folder}: is a link to a folder that it lies in, so a copy would have no end; take it out")
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from files_to_send(path, (*parents, real))
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: is no file or folder, or a link to none, and cannot be sent; take it out")
