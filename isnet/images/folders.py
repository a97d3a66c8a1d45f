"""Finds the pictures of a folder, in a stable order.

The order is the same on every machine. Name and kind of file decide; `isnet.images.decode` tests the content. Hidden
files and folders, and folders in which systems keep thumbnails and deleted files, are passed over.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath

from isnet.errors import InputError
from isnet.images import heif
from isnet.images.files import display_name

SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".avif", ".gif"),
        *(".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2"),
        *(heif.SUFFIXES if heif.can_read() else ()),
    )
)
# Pictures too, but nothing here reads them: left out with a reason, unlike the text files beside photos.
_UNREADABLE_SUFFIXES = (
    frozenset([*heif.SUFFIXES, ".jxl", ".psd", ".svg", ".dng", ".cr2", ".cr3", ".nef", ".arw"]) - SUFFIXES
)
# Folders of thumbnails, snapshots and deleted files: of Windows, macOS, Linux and network storage; in lower case.
_SYSTEM_FOLDERS = frozenset(
    (
        *("$recycle.bin", "recycler", "system volume information", "__macosx", "lost+found"),
        *("@eadir", "@recycle", "@tmp", "@recently-snapshot", "#recycle", "#snapshot"),
    )
)
# Reason of a folder that is no picture and of which nothing is left out.
LOOKED_INSIDE = "a folder with a picture's name; looked inside"

# Reasons are stored in datasets, so they stay short and as they are; people also get what to do.
_ADVICE = {
    **{f"{suffix} pictures cannot be read here; convert it": "or `pip install pi-heif`" for suffix in heif.SUFFIXES},
    "link that leaves the folder": "only files of this folder are taken; copy the picture here, or give a .txt list of "
    "paths as the source",
    "link to a folder": "copy that folder here, or give its own path",
    "link to nothing": "put back the file that it leads to, or remove the link",
    "pipe, socket or device, not a file": "need regular files; take it out of the folder",
    "empty file": "it has no bytes; copy it again, or remove it",
    "no permission to read it": "make it readable (chmod +r), or remove it",
    "folder cannot be read (Permission denied)": "make it readable (chmod +rx), or take it out",
}


@dataclass(frozen=True)
class Skipped:
    """Skipped file or folder: relative path, and reason.

    `is_harmless` is True where no picture is missing: hidden names, and folders that are looked into.
    """

    path: Path
    reason: str
    is_harmless: bool = False


def find_pictures(
    folder: str | os.PathLike[str], *, links_out: bool = False, without: Iterable[str | os.PathLike[str]] = ()
) -> tuple[list[Path], list[Skipped]]:
    """Lists picture files below `folder`, and skipped files with reasons.

    As `walk_pictures` yields them; both are sorted by the bytes of their relative paths.
    """
    pictures: list[Path] = []
    skipped: list[Skipped] = []
    for entry in walk_pictures(folder, links_out=links_out, without=without):
        if isinstance(entry, Skipped):
            skipped.append(entry)
        else:
            pictures.append(entry)
    return pictures, by_path(skipped)


def by_path(skipped: Iterable[Skipped]) -> list[Skipped]:
    """Sorts skipped files by the bytes of their relative paths."""
    return sorted(skipped, key=lambda entry: os.fsencode(entry.path))


def walk_pictures(
    folder: str | os.PathLike[str], *, links_out: bool = False, without: Iterable[str | os.PathLike[str]] = ()
) -> Iterator[Path | Skipped]:
    """Yields picture files below `folder`, and skipped files with reasons.

    Pictures come in the order of the bytes of their relative paths, with no more in memory than the names of one folder
    and of those above it. Paths start with `folder` and keep any name the file system can hold. Empty and unreadable
    files, broken links, pipes and devices are skipped; so are links that lead out of the folder, unless `links_out`.
    Links to folders are not followed. Files without a picture's suffix are not listed, nor is anything in the folders
    `without`.

    Raises:
        InputError: `folder` is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{display_name(root)} is no folder; need a folder of pictures; check the path")
    inside, excluded = os.path.realpath(root), {os.path.realpath(path) for path in without}
    # Folders that are open, the deepest last; not recursive, as folders may be nested deeper than Python's calls.
    below: list[Iterator[tuple[str, bool] | Skipped]] = [_sorted_names(root, root)]
    parents = [root]
    while below:
        entry = next(below[-1], None)
        if entry is None or isinstance(entry, Skipped):
            if entry is not None:
                yield entry
            else:
                below.pop()
                parents.pop()
            continue
        name, is_folder = entry
        path = parents[-1] / name
        if is_folder and excluded and os.path.realpath(path) in excluded:
            continue
        if reason := hidden_reason(name, is_folder=is_folder):
            yield Skipped(path.relative_to(root), reason, is_harmless=True)
            continue
        if not is_apple_double(name):
            if reason := _reason_to_skip(path, inside, links_out):
                yield Skipped(path.relative_to(root), reason, is_harmless=reason == LOOKED_INSIDE)
            elif not is_folder and path.suffix.lower() in SUFFIXES:
                yield path
        if is_folder and not path.is_symlink():
            below.append(_sorted_names(path, root))
            parents.append(path)


def _sorted_names(folder: Path, root: Path) -> Iterator[tuple[str, bool] | Skipped]:
    """Yields names, and whether they are folders.

    They come in the order of whole paths.
    """
    try:
        with os.scandir(folder) as entries:
            names = [(entry.name, _is_folder(entry)) for entry in entries]
    except OSError as error:
        yield Skipped(folder.relative_to(root), f"folder cannot be read ({error.strerror})")
        return
    # Whole paths go on behind the name of a folder, with a "/".
    names.sort(key=lambda name: os.fsencode(name[0]) + (b"/" if name[1] else b""))
    yield from names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def unsupported_reason(name: str | os.PathLike[str]) -> str:
    """Reason to skip an unsupported picture format; else empty."""
    suffix = PurePath(name).suffix.lower()
    return f"{suffix} pictures cannot be read here; convert it" if suffix in _UNREADABLE_SUFFIXES else ""


def with_advice(reason: str) -> str:
    """Reason of a skipped file, and what to do."""
    advice = _ADVICE.get(reason.partition(":")[0])
    return f"{reason} ({advice})" if advice else reason


def hidden_reason(name: str, *, is_folder: bool) -> str:
    """Reason to pass over a hidden name; else empty.

    A file without a picture's suffix needs none.
    """
    if is_folder:
        is_hidden = name.startswith(".") or name.lower() in _SYSTEM_FOLDERS
        return "hidden or system folder: not looked into" if is_hidden else ""
    is_hidden = name.startswith(".") and not is_apple_double(name) and PurePath(name).suffix.lower() in SUFFIXES
    return "hidden file: not taken" if is_hidden else ""


def hidden_part(path: str) -> tuple[str, str]:
    """First hidden part of a "/"-separated path, and reason."""
    parts = path.split("/")
    for count, name in enumerate(parts, 1):
        # Not the current or the parent folder.
        if name.strip(".") and (reason := hidden_reason(name, is_folder=count < len(parts))):
            return "/".join(parts[:count]), reason
    return "", ""


def is_apple_double(name: str) -> bool:
    """True for `._x.jpg`, metadata that macOS writes."""
    return name.startswith("._")


def _reason_to_skip(path: Path, inside: str, links_out: bool) -> str:
    """Reason to skip a file; empty where there is none."""
    suffix = path.suffix.lower()
    # Broken links and unreadable entries are reported under any suffix.
    try:
        link = path.is_symlink()
        status = path.stat()
    except FileNotFoundError:
        return "link to nothing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    # `walk_pictures` enters folders, but no links to folders.
    if stat.S_ISDIR(status.st_mode):
        if link:
            return "link to a folder: not followed"
        return LOOKED_INSIDE if suffix in SUFFIXES else ""
    if reason := unsupported_reason(path):
        return reason
    if suffix not in SUFFIXES:
        return ""
    # From here on the name is a picture's: check that its content can be read.
    if not stat.S_ISREG(status.st_mode):
        return "pipe, socket or device, not a file"
    if link and not links_out and not _is_below(os.path.realpath(path), inside):
        return "link that leaves the folder"
    if status.st_size == 0:
        return "empty file"
    return "" if os.access(path, os.R_OK) else "no permission to read it"


def _is_below(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
