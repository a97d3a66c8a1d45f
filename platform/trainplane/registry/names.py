"""What registered models and aliases may be called: asked before anything is looked up, measured or recorded.

MLflow refuses names of its own accord, but only when it is asked to keep them, and by then an audit record that can
never be taken back may stand in the store.
"""

from __future__ import annotations

import re

from trainplane.config.section import MODEL_NAME
from trainplane.errors import UserError

MAX_NAME = 100
# As many as MLflow keeps (3.17.2).
_MAX_ALIAS = 255
_SHOWN = 60


def check_name(name: str) -> None:
    """Raise `UserError` for what no registered model can be called here."""
    if re.fullmatch(MODEL_NAME, name):
        return
    if len(name) > MAX_NAME:
        raise UserError(
            f"model name {_short(name)} has {len(name)} characters, need at most {MAX_NAME}; choose a shorter one"
        )
    raise UserError(
        f"model name {name!r}: need letters, digits, - and _, a letter or a digit first; choose another name"
    )


def check_alias(alias: str) -> None:
    """Raise `UserError` for an alias that could not be set, or not be written in models:/NAME@ALIAS."""
    if not (can_be_set(alias) and alias.isascii()):
        raise UserError(
            f"alias {_short(alias)}: need letters, digits, - and _, at most {_MAX_ALIAS} of them, and neither "
            "'latest' nor 'v' with a number, which MLflow keeps for itself; choose another alias"
        )


def can_be_set(alias: str) -> bool:
    """Whether MLflow keeps an alias of this name (3.17.2: validation.py, `_validate_model_alias_name…`)."""
    is_reserved = alias.lower() == "latest" or re.fullmatch(r"[vV]\d+", alias) is not None
    return not is_reserved and len(alias) <= _MAX_ALIAS and re.fullmatch(r"[\w-]+", alias) is not None


def _short(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
