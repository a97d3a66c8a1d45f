"""Reads overrides such as `train.steps=200` by their settings' types.

Text is taken as it stands, so a dataset may be called 2024 or no; all other values are YAML (1e-4, true, [1, 2], null).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from trainplane.config import safe_yaml
from trainplane.config.schema import field_at, takes_none, takes_text_only
from trainplane.config.section import Section
from trainplane.errors import UserError

_NULL = ("", "~", "null", "Null", "NULL")


def apply_overrides(
    tree: Mapping[str, Any], overrides: Sequence[str], schema: type[Section] | None = None
) -> dict[str, Any]:
    """Returns a copy of the tree with overrides `a.b=c`.

    Args:
        tree: sections and values.
        overrides: as the user typed them.
        schema: declares the types; without it every value is YAML. The text of an unknown setting stays as it is, for
            the hint of `load.build`.
    """
    result: dict[str, Any] = copy.deepcopy(dict(tree))
    for position, override in enumerate(overrides):
        name, equals, text = override.partition("=")
        if not equals or not name or name.startswith(("-", "+")):
            raise UserError(_no_override(override, overrides[position + 1 :]))
        value = _value(text, override, name.split("."), schema)
        # Walk to the section, creating missing ones: unknown names are refused by `build`, with a hint.
        node = result
        *parents, leaf = name.split(".")
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            if not isinstance(node[parent], dict):
                raise UserError(f"{override!r}: {parent!r} is a value, not a section; write it as {parent}=…")
            node = node[parent]
        node[leaf] = value
    return result


def _no_override(word: str, following: Sequence[str]) -> str:
    """Message about a word that sets nothing."""
    if word.startswith("+"):
        return f"{word!r} is no override; a layer is joined to the preset's name: PRESET{word}"
    if word in ("=", "-", ""):
        return f"{word!r} is no override; write name and value without spaces, for example train.steps=200"
    # Spaces around the sign, or instead of it.
    value = [text for text in following if text != "="][:1]
    if "." in word and value and "=" not in value[0]:
        return f"{word!r} is no override; did you mean {word}={value[0]}?"
    return f"{word!r} is no override; need section.key=value, for example train.steps=200"


def _value(text: str, override: str, path: Sequence[str], schema: type[Section] | None) -> Any:
    field = field_at(schema, path) if schema is not None else None
    if schema is not None and field is None:
        return text
    if field is not None and takes_text_only(field.annotation):
        if takes_none(field.annotation) and text in _NULL:
            return None
        # Quotes are for those who want null as a name.
        is_quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return _yaml(text, override) if is_quoted else text
    return _yaml(text, override)


def _yaml(text: str, override: str) -> Any:
    try:
        return safe_yaml.load(text)
    except safe_yaml.DuplicateKey as error:
        raise UserError(f"{override!r}: {error}, and only one of them can be meant; keep that one") from error
    except safe_yaml.InvalidYaml as error:
        raise UserError(f"{override!r}: the value is no YAML; quote it, for example 'a.b=\"text\"'") from error
