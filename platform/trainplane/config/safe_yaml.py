"""Reads YAML 1.2 without duplicate keys, and writes it.

PyYAML's safe loader silently keeps the last of two equal keys, and reads plain words as YAML 1.1 does: 0100 as 64,
12:30 as 750, no as false, 2024-01-01 as a date, and 1e-4 as text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
# Plain words that are no text, and their first characters: the core schema of YAML 1.2, and merge keys.
_PLAIN = {
    "null": (r"~|null|Null|NULL|", "~nN"),
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "merge": (r"<<", "<"),
}
_BASES = {"0o": 8, "0x": 16}


class InvalidYaml(ValueError):
    """The text is not YAML; the message is one line."""


class DuplicateKey(ValueError):
    """A mapping repeats a key; the message names its lines."""


def load(text: str) -> Any:
    """Parses a text; raises `InvalidYaml` or `DuplicateKey`."""
    try:
        return yaml.load(text, Loader=_SafeLoader)
    except DuplicateKey:
        raise
    except RecursionError as error:
        raise InvalidYaml("nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError comes from a number of too many digits.
        raise InvalidYaml(" ".join(str(error).split())) from error


def dump(tree: Any) -> str:
    """Writes YAML that version 1.1 reads alike."""
    return yaml.dump(tree, Dumper=_SafeDumper, sort_keys=False, allow_unicode=True)


class _SafeLoader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Checked here, while the text is parsed: later, merged keys (`<<`) have joined the written ones.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                where = f"twice in line {line}" if lines[name] == line else f"in line {lines[name]} and in line {line}"
                raise DuplicateKey(f"{key.value!r} stands {where}")
            lines[name] = line
        return node

    def construct_document(self, node: Any) -> Any:
        # Deep construction makes PyYAML itself refuse a node that contains itself, with its line.
        self.deep_construct = True
        return super().construct_document(node)

    def construct_whole_number(self, node: yaml.ScalarNode) -> int:
        text = str(self.construct_scalar(node))
        return int(text, _BASES.get(text[:2], 10))

    def construct_number(self, node: yaml.ScalarNode) -> float:
        text = str(self.construct_scalar(node))
        # Python writes .inf and .nan without the point.
        return float(text.replace(".", "") if text[-1:].isalpha() else text)


class _SafeDumper(yaml.SafeDumper):
    # Words of both YAML versions are quoted: others read 1.1.
    yaml_implicit_resolvers: dict[str, Any] = {  # noqa: RUF012
        first: list(words) for first, words in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


for _name, (_pattern, _first) in _PLAIN.items():
    for _class in (_SafeLoader, _SafeDumper):
        _class.add_implicit_resolver(
            f"{_TAG}{_name}", re.compile(f"^(?:{_pattern})$"), [*_first, *([""] if _name == "null" else [])]
        )
_SafeLoader.add_constructor(f"{_TAG}int", _SafeLoader.construct_whole_number)
_SafeLoader.add_constructor(f"{_TAG}float", _SafeLoader.construct_number)
