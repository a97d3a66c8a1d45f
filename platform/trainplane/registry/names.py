"""Names of registered models, aliases and versions.

They are checked before anything is measured or recorded. MLflow refuses names too, but only when it stores them. By
then an audit record, which can never be removed, may stand in the store.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainplane.config.section import MODEL_NAME
from trainplane.errors import UserError

_ADDRESS = re.compile(rf"(?:models:/)?(?P<name>{MODEL_NAME})(?:@(?P<alias>[A-Za-z0-9_-]+)|/(?P<version>[0-9]+))?")
MAX_NAME = 100
# MLflow's own limit (3.17.2).
_MAX_ALIAS = 255
# Longer names are cut in messages.
_MAX_SHOWN = 60


@dataclass(frozen=True)
class VersionAddress:
    """Parts of `NAME`, `NAME@ALIAS` or `NAME/VERSION`."""

    name: str
    alias: str | None
    version: str | None


def parse_address(address: str) -> VersionAddress:
    """Splits a model's address; raises `UserError` for anything else.

    `models:/` before it may be left out.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UserError(f"{address!r} is no address of a model version; need NAME, NAME@ALIAS or NAME/VERSION")
    return VersionAddress(match["name"], match["alias"], match["version"])


def is_address(text: str) -> bool:
    """Tells if a text looks like a model's address."""
    return _ADDRESS.fullmatch(text) is not None


def check_name(name: str) -> None:
    """Raises `UserError` for an impossible name of a registered model."""
    if re.fullmatch(MODEL_NAME, name):
        return
    # The length gets a message of its own.
    if len(name) > MAX_NAME:
        raise UserError(
            f"model name {_short(name)} has {len(name)} characters, need at most {MAX_NAME}; choose a shorter one"
        )
    raise UserError(
        f"model name {name!r}: need letters, digits, - and _, a letter or a digit first; choose another name"
    )


def check_alias(alias: str) -> None:
    """Raises `UserError` for an impossible alias."""
    # `models:/NAME@ALIAS` holds ASCII only; MLflow accepts more.
    if not (can_be_set(alias) and alias.isascii()):
        raise UserError(
            f"alias {_short(alias)}: need letters, digits, - and _, at most {_MAX_ALIAS} of them, and neither "
            "'latest' nor 'v' with a number, which MLflow keeps for itself; choose another alias"
        )


def can_be_set(alias: str) -> bool:
    """Tells if MLflow accepts the alias (3.17.2: validation.py, `_validate_model_alias_name…`)."""
    is_reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias) is not None
    return not is_reserved and len(alias) <= _MAX_ALIAS and re.fullmatch(r"[\w-]+", alias) is not None


def _short(name: str) -> str:
    return repr(name if len(name) <= _MAX_SHOWN else f"{name[:_MAX_SHOWN]}…")
