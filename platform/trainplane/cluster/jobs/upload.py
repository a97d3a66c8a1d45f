"""Folders that travel with a job: their size, before Ray refuses it, and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from trainplane.errors import UserError

# Ray refuses larger uploads with an answer that names no file (ray#38566).
MAX_UPLOAD_BYTES = 100 * 2**20


def check_upload(folder: Path) -> None:
    """Refuse a folder that is too large to send, naming its largest files, or that holds what is no file."""
    try:
        sizes = {path: path.stat().st_size for path in _sendable(folder)}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror}); take it out of {folder}") from error
    total = sum(sizes.values())
    if total > MAX_UPLOAD_BYTES:
        largest = sorted(sizes, key=lambda path: -sizes[path])[:3]
        named = ", ".join(f"{path.relative_to(folder)} ({sizes[path] / 2**20:.0f} MiB)" for path in largest)
        raise UserError(
            f"{folder}: {total / 2**20:.0f} MiB to upload, at most {MAX_UPLOAD_BYTES // 2**20} are accepted; "
            f"move away the largest: {named}"
        )


def folder_digest(folder: Path) -> str:
    """Of names and contents: hex of 64 characters."""
    sha = hashlib.sha256()
    for path in _files(folder):
        sha.update(str(path.relative_to(folder)).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return sha.hexdigest()


def _sendable(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """Files as a copy has them, what links lead to included; `UserError` names what cannot be copied."""
    real = folder.resolve()
    if real in above:
        raise UserError(f"{folder}: is a link to a folder that it lies in, so a copy would have no end; take it out")
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__":
            continue
        if path.is_dir():
            yield from _sendable(path, (*above, real))
        elif path.is_file():
            yield path
        else:
            raise UserError(f"{path}: is no file or folder, or a link to none, and cannot be sent; take it out")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
