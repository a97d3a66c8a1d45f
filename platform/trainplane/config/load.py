"""Loads configuration from YAML files and dotted overrides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from trainplane.config import safe_yaml
from trainplane.config.section import Section
from trainplane.errors import UserError, nearest

ConfigT = TypeVar("ConfigT", bound=Section)


def read_yaml(path: Path) -> dict[str, Any]:
    """Mapping in a YAML file."""
    try:
        loaded = safe_yaml.load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a preset's name or a YAML file") from error
    except safe_yaml.DuplicateKey as error:
        raise UserError(f"{path}: {error}, and only one of them can be meant; keep that one") from error
    except (safe_yaml.InvalidYaml, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({error}); correct the file") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds {type(loaded).__name__}, need sections such as 'train:' and 'data:'")
    return loaded


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Returns a copy of the tree with overrides `a.b=c`.

    Values are read as YAML (1e-4, true, [1, 2], null).
    """
    result: dict[str, Any] = json.loads(json.dumps(tree))
    for override in overrides:
        path, equals, text = override.partition("=")
        if not equals or not path or path.startswith("-"):
            raise UserError(f"{override!r} is no override; need section.key=value, for example train.steps=200")
        value = _scalar(text, override)
        # Walk to the section, creating missing ones: unknown names are refused by `build`, with a hint.
        node = result
        *parents, leaf = path.split(".")
        for parent in parents:
            child = node.setdefault(parent, {})
            if not isinstance(child, dict):
                raise UserError(f"{override!r}: {parent!r} is a value, not a section; write it as {parent}=…")
            node = child
        node[leaf] = value
    return result


def _scalar(text: str, override: str) -> Any:
    try:
        value = safe_yaml.load(text)
    except safe_yaml.DuplicateKey as error:
        raise UserError(f"{override!r}: {error}, and only one of them can be meant; keep that one") from error
    except safe_yaml.InvalidYaml as error:
        raise UserError(f"{override!r}: the value is no YAML; quote it, for example 'a.b=\"text\"'") from error
    if isinstance(value, str):
        # YAML 1.1 reads 1e-4 as text, but a learning rate is meant.
        try:
            return float(value)
        except ValueError:
            return value
    return value


def build(schema: type[ConfigT], tree: Mapping[str, Any]) -> ConfigT:
    """Validates a tree; a `UserError` lists every fault and remedy."""
    try:
        return schema.model_validate(_with_floats(tree))
    except ValidationError as error:
        raise UserError("; ".join(_messages(schema, error.errors()))) from error


def _with_floats(value: Any) -> Any:
    # YAML 1.1 reads `1e-4` as text.
    if isinstance(value, Mapping):
        return {key: _with_floats(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_with_floats(child) for child in value]
    if isinstance(value, str) and value[:1] in "0123456789.-" and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _messages(schema: type[Section], faults: Sequence[Mapping[str, Any]]) -> list[str]:
    # One message per field: a field of a union type has a fault for each type of the union.
    by_field: dict[str, list[Mapping[str, Any]]] = {}
    for fault in faults:
        by_field.setdefault(_field(schema, fault["loc"]), []).append(fault)
    return [_message(schema, field, field_faults) for field, field_faults in by_field.items()]


def _field(schema: type[Section], location: Sequence[int | str]) -> str:
    """Dotted name of the setting at pydantic's location.

    Pydantic appends the type of a union, or the index of an entry; these are omitted.
    """
    node: type[Section] | None = schema
    names: list[str] = []
    for part in location:
        if node is None:
            break
        names.append(str(part))
        # A number is an index in a list of sections: the following names belong to that section.
        node = node if isinstance(part, int) else _section_at(node, str(part))
    return ".".join(names)


def _message(schema: type[Section], dotted: str, faults: Sequence[Mapping[str, Any]]) -> str:
    path, fault = dotted.split("."), faults[0]
    if fault["type"] == "extra_forbidden":
        return f"unknown setting {dotted!r}{nearest(path[-1], _names_at(schema, path[:-1]))}"
    if fault["type"] == "missing" and len(path) == len(fault["loc"]):
        return f"{dotted} is not set; add it to the preset or give {dotted}=…"
    if fault["type"] == "value_error":
        message = str(fault["msg"]).removeprefix("Value error, ")
        # A validator of a single value knows its value, not the name of the setting.
        return f"{dotted}={message}" if message.startswith(repr(fault.get("input"))) else message
    # All that remains is a wrong type or value: name each type that it could have.
    messages = [str(fault["msg"]) for fault in faults]
    either = ", or ".join(dict.fromkeys(message[0].lower() + message[1:] for message in messages))
    return f"{dotted}={fault.get('input')!r}: {either}; give {dotted}=… accordingly"


def _section_at(schema: type[Section], name: str) -> type[Section] | None:
    """Section of that name; None for values and unknown names."""
    field = schema.model_fields.get(name)
    annotation: Any = field.annotation if field else None
    # The section may be one part of a union, such as `Section | None`.
    options = [annotation, *getattr(annotation, "__args__", ())]
    return next((o for o in options if isinstance(o, type) and issubclass(o, Section)), None)


def _names_at(schema: type[Section], path: Sequence[str]) -> list[str]:
    """Names in the section at `path`."""
    node = schema
    for part in path:
        below = _section_at(node, part)
        if below is None:
            return []
        node = below
    return list(node.model_fields)
