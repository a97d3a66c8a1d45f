"""Settings that a configuration class declares: names, types, units, defaults.

The types of a setting and its limits are read from pydantic's JSON schema, so nothing is declared twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic.fields import FieldInfo

from trainplane.config.section import Section

_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "multiple of",
}
_TYPES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}


@dataclass(frozen=True)
class Setting:
    """One value that a user can set."""

    name: str  # dotted
    kind: str  # its type and limits, in words
    unit: str
    is_required: bool
    default: Any  # as JSON; None where the setting is required
    meaning: str
    also: tuple[str, ...]  # names that other programs give to it
    related: tuple[str, ...]  # names of other programs' settings with other values


@dataclass(frozen=True)
class SectionInfo:
    """One section of a configuration with its settings."""

    name: str  # dotted; empty for the settings outside of all sections
    meaning: str
    settings: list[Setting]


def sections(schema: type[Section]) -> list[SectionInfo]:
    """Sections as declared, nested ones after their parents."""
    tree = schema.model_json_schema(mode="validation")
    return list(_sections(tree, tree.get("$defs", {}), "", ""))


def settings(schema: type[Section]) -> list[Setting]:
    """All settings of a configuration, in the order of `sections`."""
    return [setting for section in sections(schema) for setting in section.settings]


def _sections(tree: Mapping[str, Any], defs: Mapping[str, Any], prefix: str, meaning: str) -> Iterator[SectionInfo]:
    nested: list[tuple[str, Mapping[str, Any]]] = []
    values: list[Setting] = []
    for name, part in tree.get("properties", {}).items():
        if (inner := _section_in(part, defs)) is not None:
            nested.append((f"{prefix}{name}", inner))
        else:
            values.append(_setting(f"{prefix}{name}", part, defs, is_required=name in tree.get("required", ())))
    yield SectionInfo(prefix.rstrip("."), meaning, values)
    for name, inner in nested:
        yield from _sections(inner, defs, f"{name}.", str(inner.get("description", "")).partition("\n")[0])


def _section_in(part: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Section that a property is, or may be beside null."""
    for option in (part, *part.get("anyOf", ())):
        if (name := str(option.get("$ref", "")).rpartition("/")[2]) and "properties" in defs[name]:
            return dict(defs[name])
    return None


def _setting(name: str, part: Mapping[str, Any], defs: Mapping[str, Any], *, is_required: bool) -> Setting:
    return Setting(
        name,
        _kind(part, defs),
        str(part.get("unit", "")),
        is_required,
        part.get("default"),
        str(part.get("description", "")),
        tuple(part.get("also", ())),
        tuple(part.get("related", ())),
    )


def _kind(part: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Type and limits of a JSON schema, in words."""
    if "$ref" in part:
        section = defs[str(part["$ref"]).rpartition("/")[2]]
        return "{" + ", ".join(section.get("properties", {})) + "}"
    if "anyOf" in part:
        kinds = " or ".join(dict.fromkeys(_kind(option, defs) for option in part["anyOf"]))
        return kinds.replace("true or false or", "true, false or")
    if "enum" in part or "const" in part:
        choices = part.get("enum", [part.get("const")])
        return ", ".join(map(str, choices[:-1])) + (" or " if choices[1:] else "") + str(choices[-1])
    if part.get("type") == "array":
        if "prefixItems" in part:
            return "[" + ", ".join(_kind(item, defs) for item in part["prefixItems"]) + "]"
        return f"list of {_kind(part.get('items', {}), defs)}"
    if part.get("type") == "object":
        inner = part.get("additionalProperties")
        return f"table of {_kind(inner, defs)}" if isinstance(inner, dict) else "table"
    limits = " and ".join(f"{sign} {_limit(part[key])}" for key, sign in _BOUNDS.items() if key in part)
    return f"{_TYPES.get(str(part.get('type')), 'any value')} {limits}".strip()


def _limit(value: float) -> str:
    """Limit as people write it, such as 2^63."""
    power = int(value).bit_length() - 1
    return f"2^{power}" if power > 30 and value == 2**power else str(value)


def section_at(schema: type[Section], path: Sequence[str]) -> type[Section] | None:
    """Section class at a path; None where there is none."""
    node: type[Section] | None = schema
    for name in path:
        field = node.model_fields.get(name) if node is not None else None
        node = section_of(field.annotation) if field is not None else None
    return node


def section_of(annotation: Any) -> type[Section] | None:
    """Section class of an annotation, optional or not."""
    options = [annotation, *get_args(annotation)]
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def field_at(schema: type[Section], path: Sequence[str]) -> FieldInfo | None:
    """Field at a dotted path; None if unknown.

    A path that goes on behind a table, such as `guard.balance.discriminator`, leads through it.
    """
    node: type[Section] | None = schema
    for name in path:
        field = node.model_fields.get(name) if node is not None else None
        if field is None:
            return None
        if (node := section_of(field.annotation)) is None or _is_table(field.annotation):
            return field
    return field


def _is_table(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) in (dict, list, tuple)


def takes_text_only(annotation: Any) -> bool:
    """True for text that may be missing, and nothing else."""
    parts = [part for part in _parts(annotation) if part is not type(None)]
    return bool(parts) and all(part is str for part in parts)


def takes_none(annotation: Any) -> bool:
    """True where null is a value of the setting."""
    return type(None) in _parts(annotation)


def _parts(annotation: Any) -> list[Any]:
    """Types of a union, without their limits."""
    if hasattr(annotation, "__metadata__"):
        return _parts(annotation.__origin__)
    arguments = get_args(annotation)
    is_union = arguments and getattr(annotation, "__origin__", None) not in (dict, list, tuple, set)
    if not is_union or all(not isinstance(argument, type) and not get_args(argument) for argument in arguments):
        return [annotation]
    return [part for argument in arguments for part in _parts(argument)]
