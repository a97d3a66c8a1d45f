"""YAML as people's files are read: by PyYAML's safe loader, which takes the last of two equal keys without a word.

Here a key that stands twice is refused, and so is what holds itself: no configuration is endless.
"""

from __future__ import annotations

from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


class NoYaml(ValueError):
    """Why a text cannot be read, in one line."""


class KeyTwice(ValueError):
    """One mapping has the same key twice; the sentence names the key and its lines."""


def load(text: str) -> Any:
    """What the text says; raises `NoYaml` or `KeyTwice`."""
    try:
        return yaml.load(text, Loader=_SafeLoader)
    except KeyTwice:
        raise
    except RecursionError as error:
        raise NoYaml("nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError is that of a date or a number which looks like one only.
        raise NoYaml(" ".join(str(error).split())) from error


class _SafeLoader(yaml.SafeLoader):
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Where the text is read: later, merged keys (`<<`) have joined those that were written."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                where = f"twice in line {line}" if lines[name] == line else f"in line {lines[name]} and in line {line}"
                raise KeyTwice(f"{key.value!r} stands {where}")
            lines[name] = line
        return node

    def construct_document(self, node: Any) -> Any:
        # Depth first: then PyYAML itself finds what holds itself, and says where.
        self.deep_construct = True
        return super().construct_document(node)
