"""Checks of the values that isnet.toml gives a context.

Every value is text that no shell has seen: `~` is the home folder, a relative path is beside isnet.toml. Messages show
no address that may hold a password, and no secret.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainplane.config.text_file import read_text
from trainplane.errors import UserError
from trainplane.store_address import full_address

_SQLITE = "sqlite:///"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SHELL_VARIABLE = re.compile(r"\$[A-Za-z_{]")


def check_text(value: object, what: str) -> None:
    """Refuses all but text in one line.

    Args:
        value: the value in the file.
        what: the key and where it stands, as messages have it; the same for the other functions here.
    """
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{what} is not a text, or is empty; write it as "…"')
    if value != value.strip() or _CONTROL.search(value):
        raise UserError(f"{what} has a blank or a line end around its value, or a tab in it; take it out")
    if _SHELL_VARIABLE.search(value):
        raise UserError(
            f'{what} names a variable ("$…"), and no shell reads this file; write the value itself, or "~/…" for the '
            "home folder"
        )


def store_address(value: str, what: str, base: Path) -> str:
    """`s3://bucket/prefix`, or the absolute path of a folder."""
    if value.startswith("s3://") and not value.removeprefix("s3://").strip("/"):
        raise UserError(f"{what} names no bucket; need s3://bucket/prefix")
    try:
        return full_address(value, base=base)
    except UserError as error:
        raise UserError(f"{what} cannot be used: {error}") from None


def tracking_address(value: str, what: str, base: Path) -> str:
    """Address of MLflow; a relative database is one below `base`."""
    if value.startswith(("http://", "https://")):
        return web_address(value, what)
    path, mark, query = value.removeprefix(_SQLITE).partition("?")
    if not value.startswith(_SQLITE) or not path or path.endswith((":memory:", "/")):
        # The address is not shown: it may hold a password.
        raise UserError(f"{what} is not an address; need http://…, https://… or {_SQLITE}…, which names a file")
    return f"{_SQLITE}{sqlite_path(store_address(path, what, base))}{mark}{query}"


def sqlite_path(path: str) -> str:
    """Checks that an address can hold a database's path."""
    # An address ends its path at a question mark, and MLflow resolves percent escapes.
    if "?" in path or re.search("%[0-9A-Fa-f]{2}", path):
        raise UserError(
            f"{path}: the address of MLflow's database cannot hold '?' or an escape such as '%20'; set ISNET_HOME (or "
            "tracking, in a context) to a folder without, for example ISNET_HOME=~/isnet"
        )
    return path


def web_address(value: str, what: str) -> str:
    """Address of a server, without user, password and query."""
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", value):
        scheme = "https" if value.startswith("https:") else "http"
        raise UserError(f"{what} is not an address; need {scheme}://HOST:PORT")
    if "@" in parts.netloc:
        raise UserError(
            f"{what} holds a user or a password; take it out, and give it among the context's secrets, such as "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, by reference"
        )
    if parts.query or parts.fragment:
        raise UserError(f"{what} has a query or a fragment; need {parts.scheme}://HOST:PORT alone")
    return value.rstrip("/")


def ray_address(value: str, what: str) -> str:
    """Address of a cluster's dashboard, which takes jobs."""
    if not value.startswith(("http://", "https://")):
        raise UserError(
            f"{what} is {value!r}, which is not a job address; need http://HEAD:8265, the address of the cluster's "
            "dashboard"
        )
    return web_address(value, what)


def region(value: str, what: str) -> str:
    """Name of a region."""
    if not re.fullmatch("[A-Za-z0-9-]+", value):
        raise UserError(f"{what} is no region; need letters, digits and '-', as in us-east-1")
    return value


def secret(name: str, reference: object, what: str) -> str:
    """Value that a reference leads to, without blanks around."""
    if not _NAME.fullmatch(name):
        raise UserError(f"{what}: {name!r} is not the name of a variable; need letters, digits, _")
    # A value that is neither kind of reference is refused without being shown: it may be the secret itself.
    kind, _, target = str(reference).partition(":")
    if kind == "env":
        if target not in os.environ:
            raise UserError(f"{what} is read from ${target}, which is not set; export it")
        value, source = os.environ[target], f"${target}"
    elif kind == "file":
        value, source = _text_of(target, what), target
    else:
        raise UserError(
            f"{what} is given by value; write a reference, 'env:NAME' or 'file:PATH', so that no secret stands in a "
            "file that is shared"
        )
    # Files and secret managers end a value with a line end, which no HTTP header takes.
    value = value.strip()
    if not value or _CONTROL.search(value):
        raise UserError(f"{what} is read from {source}, which is empty or has more than one line; correct it")
    return value


def _text_of(file: str, what: str) -> str:
    try:
        return read_text(Path(file).expanduser())
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UserError(f"{what} is read from {file}, which cannot be read ({reason})") from error


def _split(value: str) -> Any:
    # Parts of an address; None if it cannot be split, or has a port that is none.
    try:
        parts = urlsplit(value)
        return None if parts.port == 0 else parts
    except ValueError:
        return None
