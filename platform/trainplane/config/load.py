"""Loads configuration from YAML files, and validates it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from trainplane.config import safe_yaml
from trainplane.config.hints import hint
from trainplane.config.schema import section_of, settings
from trainplane.config.section import NoBoolean, Section
from trainplane.config.text_file import read_text
from trainplane.errors import UserError

ConfigT = TypeVar("ConfigT", bound=Section)
# Pydantic's messages in our words, by their types.
_PLAIN = {"bool_parsing": "Input should be true or false", "bool_type": "Input should be true or false"}
# Kinds of values that have an article.
_COUNTABLE = ("whole number", "number", "finite number", "list", "table")


def read_yaml(path: Path) -> dict[str, Any]:
    """Mapping in a YAML file."""
    try:
        loaded = safe_yaml.load(read_text(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a preset's name or a YAML file") from error
    except safe_yaml.DuplicateKey as error:
        raise UserError(f"{path}: {error}, and only one of them can be meant; keep that one") from error
    except (safe_yaml.InvalidYaml, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is no YAML ({error}); correct the file") from error
    if not isinstance(loaded, dict):
        raise UserError(f"{path}: holds {type(loaded).__name__}, need sections such as 'train:' and 'data:'")
    return loaded


def build(schema: type[ConfigT], tree: Mapping[str, Any], *, beside: Sequence[type[Section]] = ()) -> ConfigT:
    """Validates a tree; a `UserError` lists every fault and remedy.

    Args:
        schema: configuration to build.
        tree: sections and values.
        beside: further schemas whose settings a user may have meant by an unknown name.
    """
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_messages([schema, *beside], error.errors()))) from error


def _messages(schemas: Sequence[type[Section]], faults: Sequence[Mapping[str, Any]]) -> list[str]:
    # One message per field: a field of a union type has a fault for each type of the union.
    by_field: dict[str, list[Mapping[str, Any]]] = {}
    for fault in faults:
        by_field.setdefault(_field(schemas[0], fault["loc"]), []).append(fault)
    return [_message(schemas, field, field_faults) for field, field_faults in by_field.items()]


def _field(schema: type[Section], location: Sequence[int | str]) -> str:
    """Dotted name of the setting at pydantic's location.

    Pydantic appends the type of a union, or the index of an entry; these are omitted.
    """
    node: type[Section] | None = schema
    entries: type[Section] | None = None  # section of each entry, behind a list or a table of sections
    names: list[str] = []
    for part in location:
        if entries is not None:
            node, entries = entries, None
        elif node is None:
            break
        else:
            field = node.model_fields.get(str(part))
            annotation = field.annotation if field else None
            node = section_of(annotation)
            # A list or table of sections: what follows is an index or a key, then a name in the section.
            arguments = [section for each in get_args(annotation) if (section := section_of(each)) is not None]
            if node is not None and arguments and getattr(annotation, "__origin__", None) in (dict, list, tuple):
                entries = arguments[0]
        names.append(str(part))
    return ".".join(names)


def _message(schemas: Sequence[type[Section]], dotted: str, faults: Sequence[Mapping[str, Any]]) -> str:
    fault = faults[0]
    value = fault.get("input")
    if fault["type"] == "extra_forbidden":
        name, value = _first(dotted, value)
        return f"unknown setting {name!r}{hint(schemas, name, _plain(value))}"
    if fault["type"] == "missing" and dotted.count(".") + 1 == len(fault["loc"]):
        return f"{dotted} is not set; add it to the preset or give {dotted}=…"
    if fault["type"] == "value_error":
        return _validator_message(dotted, fault)
    if value is None:
        return f"{dotted} has no value; give {dotted}=…"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{dotted}={_shown(value)}: {dotted} is a section; set one of its settings, as in {dotted}.NAME=…"
    if {each["type"] for each in faults} == {"string_type"} and not isinstance(value, Mapping | list):
        return f'{dotted}: {_shown(value)} is read as a number; write it in quotes, as text: "{_plain(value)}"'
    # All that remains is a wrong type or value. The schema says what it could be, in the words of `config show`.
    declared = next((each for schema in schemas for each in settings(schema) if each.name == dotted), None)
    if declared is not None:
        kind = (
            declared.kind.replace("number", "finite number", 1) if fault["type"] == "finite_number" else declared.kind
        )
        # Of a list the fault is one entry's.
        if isinstance(fault["loc"][-1], int):
            kind = kind.removeprefix("list of ")
        article = "a " if kind.startswith(_COUNTABLE) else ""
        return f"{dotted}={_shown(value)}: need {article}{kind}; give {dotted}=… accordingly"
    # An entry of a list or a table.
    messages = [_PLAIN.get(fault["type"], str(fault["msg"])) for fault in faults]
    either = ", or ".join(dict.fromkeys(message[0].lower() + message[1:] for message in messages))
    return f"{dotted}={_shown(value)}: {either}; give {dotted}=… accordingly"


def _validator_message(dotted: str, fault: Mapping[str, Any]) -> str:
    """Message of our own validator, with the setting's full name."""
    message = str(fault["msg"]).removeprefix("Value error, ")
    # A validator of a single value knows its value, not the name of the setting.
    if message.startswith(repr(fault.get("input"))):
        return f"{dotted}={message}"
    if isinstance(fault.get("ctx", {}).get("error"), NoBoolean):
        name = message.partition("=")[0]
        return message.replace(f"{name}=", f"{dotted}.{name}=" if dotted else f"{name}=")
    # A validator of a section that occurs in several places does not know which one it is.
    return message if not dotted or dotted.partition(".")[0] in message else f"{dotted}: {message}"


def _first(name: str, value: Any) -> tuple[str, Any]:
    """First setting of an unknown section, and its value."""
    while isinstance(value, Mapping) and value:
        key, value = next(iter(value.items()))
        name = f"{name}.{key}"
    return name, value


def _shown(value: Any) -> str:
    """Value as a user would type it, text in quotes."""
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _plain(value: Any) -> str | None:
    """Single value as a user would type it, else None."""
    if value is None or isinstance(value, Mapping | list | tuple):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)
