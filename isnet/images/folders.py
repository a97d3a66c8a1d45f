"""Which files of a folder are pictures, in an order that does not depend on the machine.

Decided by name and kind of file alone; whether the content can be decoded is found out by `isnet.images.decode`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePath

from isnet.errors import InputError
from isnet.images.files import shown

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif"),
        *(".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"),
    )
)
# Pictures too, but nothing here reads them: left out with a reason, unlike the text files beside photos.
_UNREADABLE_SUFFIXES = frozenset([".heic", ".heif", ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw"])


@dataclass(frozen=True)
class Skipped:
    """A file left out: its path relative to the folder, and a reason for people."""

    path: Path
    reason: str


def find_pictures(folder: str | os.PathLike[str], *, links_out: bool = False) -> tuple[list[Path], list[Skipped]]:
    """All picture files below `folder`, and what was left out and why; both sorted by the bytes of the relative path.

    Paths start with `folder` and keep any name the file system can hold. Empty and unreadable files, broken links,
    pipes and devices are left out; so are links that lead out of the folder, unless `links_out`. Links to folders
    are not followed. Files whose suffix is no picture's are passed over in silence.

    Raises `InputError` when `folder` is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{shown(root)} is no folder; need a folder of pictures; check the path")
    inside = os.path.realpath(root)
    found: list[Path] = []
    skipped: list[Skipped] = []

    def refuse_folder(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename).relative_to(root), f"folder cannot be read ({error.strerror})"))

    for parent, folders, files in os.walk(root, onerror=refuse_folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            reason = _reason_to_skip(path, inside, links_out)
            if reason:
                skipped.append(Skipped(path.relative_to(root), reason))
            elif name in files and path.suffix.lower() in SUFFIXES:
                found.append(path)
    return sorted(found, key=os.fsencode), sorted(skipped, key=lambda entry: os.fsencode(entry.path))


def unreadable(name: str | os.PathLike[str]) -> str:
    """Why a file of this name is a picture that nothing here reads; empty for others."""
    suffix = PurePath(name).suffix.lower()
    return f"{suffix} pictures cannot be read here; convert it" if suffix in _UNREADABLE_SUFFIXES else ""


def _reason_to_skip(path: Path, inside: str, links_out: bool) -> str:
    """Why this is no usable picture; empty for one that is, and for what never claimed to be one."""
    suffix = path.suffix.lower()
    try:
        link = path.is_symlink()
        status = path.stat()
    except FileNotFoundError:
        return "link to nothing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISDIR(status.st_mode):
        if link:
            return "link to a folder: not followed"
        return "a folder with a picture's name; looked inside" if suffix in SUFFIXES else ""
    if reason := unreadable(path):
        return reason
    if suffix not in SUFFIXES:
        return ""
    if not stat.S_ISREG(status.st_mode):
        return "pipe, socket or device, not a file"
    if link and not links_out and not _is_below(os.path.realpath(path), inside):
        return "link that leaves the folder"
    if status.st_size == 0:
        return "empty file"
    return "" if os.access(path, os.R_OK) else "no permission to read it"


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
