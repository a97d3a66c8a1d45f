"""Finds code of a package that is not this installation's.

A package brings the code that serves it, and loading it runs that code with the rights of the user who loads it.
Everybody who may register a version chooses that code, so a promotion runs none of it before it is known: the files
below `code/` must be those of the installed packages, byte for byte, and the model's description must name nothing else
to run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainplane.command_line import command_line
from trainplane.config import safe_yaml
from trainplane.config.canonical import canonical_json

# Names that `package` gives to the folders of code and data.
_CODE, _DATA = "code", "data/exported"
# Of the flavour's settings these say nothing about what is run.
_HARMLESS = ("env", "python_version")
_MAX_DESCRIPTION_BYTES = 1 << 20


def foreign_code(
    package: Path, *, loader_module: str, installed: Mapping[str, Path], trusted: Sequence[str] = ()
) -> str | None:
    """Reason why loading a package is not safe, if any.

    Args:
        package: Folder of the package.
        loader_module: Module that has to serve it.
        installed: Folders of the installed packages that it may bring, by import name.
        trusted: Digests of other code that it may bring, such as an older installation's.
    """
    if (fault := _fault_of_description(package / "MLmodel", loader_module)) is not None:
        return fault
    links = sorted(path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_symlink())
    if links:
        return f"{links[0]!r} is a link"
    # Python's caches are no part of the installed code; in a package they would be run instead of it.
    ours = {
        f"{name}/{path}": digest
        for name, folder in installed.items()
        for path, digest in _digests(folder).items()
        if "__pycache__" not in path
    }
    theirs = _digests(package / _CODE)
    differing = sorted(path for path in {*ours, *theirs} if ours.get(path) != theirs.get(path))
    digest = hashlib.sha256(canonical_json(theirs)).hexdigest()
    if not differing or digest in trusted:
        return None
    more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
    return (
        f"its code is not that of this installation ({differing[0]!r}{more}); register its checkpoint again "
        f"({command_line('models', 'register', 'RUN')}), or put {digest} into trusted_code of the gates, if you "
        "know that code"
    )


def _fault_of_description(file: Path, loader_module: str) -> str | None:
    """Reason why MLflow's description of the package is not ours."""
    try:
        if file.is_symlink() or file.stat().st_size > _MAX_DESCRIPTION_BYTES:
            return "its MLmodel is no file of MLflow's"
        flavors = safe_yaml.load(file.read_text(encoding="utf-8"))["flavors"]
        settings: dict[str, Any] = dict(flavors["python_function"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its MLmodel cannot be read ({type(error).__name__}: {error})"
    if list(flavors) != ["python_function"]:
        return f"its MLmodel has the flavours {', '.join(map(str, flavors))}; need python_function alone"
    needed = {"loader_module": loader_module, "code": _CODE, "data": _DATA, "streamable": False}
    for name in sorted({*needed, *map(str, settings)} - {*_HARMLESS}):
        # Older versions of MLflow did not write `streamable`.
        if settings.get(name, False if name == "streamable" else None) != needed.get(name, ...):
            return f"its MLmodel says {name}: {settings.get(name)!r}, need {needed.get(name)!r}"
    return None


def _digests(folder: Path) -> dict[str, str]:
    """Sha256 of each file by path."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as stream:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests
