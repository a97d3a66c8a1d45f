"""Folder of a report, where no user's file is replaced.

The folder's list `files.json` has the digests of all files that were written there. A file with one of these may be
replaced by the next report; any other file of the same name is the user's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from trainplane.errors import UserError

_LIST = "files.json"
_KIND = "isnet report"
# Names of the files of a report; it has scores for each model.
_OURS = re.compile(r"report\.(html|json|csv|md)|(figure|worst)\.png|pairs\.json|scores-\d+\.csv")


def report_folder(output: str) -> Path:
    """Makes the folder of `-o`, before anything is measured.

    Raises:
        UserError: It cannot be written, or holds a file that would be replaced and is not of an earlier report.
    """
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = sorted(os.listdir(folder))
        digests = _digests(folder)
        foreign = [name for name in names if _is_foreign(folder / name, digests)]
        is_writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise UserError(f"{folder} cannot be the report's folder ({error.strerror}); give another with -o") from error
    if not is_writable:
        raise UserError(f"{folder} cannot be the report's folder (it may not be written); give another with -o")
    if foreign:
        raise UserError(
            f"{folder} holds {foreign[0]}, which no evaluation wrote there as it is now, and the report would replace "
            "it; give an empty or a new folder with -o, or move that file away"
        )
    return folder


def is_of_report(name: str) -> bool:
    """Tells if a report has a file of this name."""
    return _OURS.fullmatch(name) is not None


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files of a report, each at once."""
    folder.mkdir(parents=True, exist_ok=True)
    # The list comes first: a report that was interrupted is recognised, and older files stay ours until they go.
    digests = {*_digests(folder), *(hashlib.sha256(data).hexdigest() for data in files.values())}
    _write(folder / _LIST, json.dumps({"kind": _KIND, "sha256": sorted(digests)}, indent=1).encode())
    for name, data in files.items():
        _write(folder / name, data)


def _write(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _digests(folder: Path) -> set[str]:
    """Digests of the files that reports wrote into a folder."""
    try:
        stored = json.loads((folder / _LIST).read_bytes())
        return {str(digest) for digest in stored["sha256"]} if stored["kind"] == _KIND else set()
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()


def _is_foreign(path: Path, digests: set[str]) -> bool:
    if path.name == _LIST:
        # Without our digests it is another program's list.
        return path.is_symlink() or not digests
    if not is_of_report(path.name):
        return False
    # A link would be replaced, and a folder cannot be.
    if path.is_symlink() or not path.is_file():
        return True
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() not in digests
