"""Reads YAML and refuses duplicate keys and recursive nodes.

PyYAML's safe loader silently keeps the last of two equal keys.
"""

from __future__ import annotations

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


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
        # A ValueError comes from an impossible date or number, such as 2024-99-99.
        raise InvalidYaml(" ".join(str(error).split())) from error


class _SafeLoader(yaml.SafeLoader):
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
