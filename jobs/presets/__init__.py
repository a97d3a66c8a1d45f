"""Shipped presets and layers, and users' own files.

A preset is one run or one search; a layer goes on top of any of them, as in `places2+laptop`. Names are listed without
reading or importing anything else, for completion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainplane.errors import UserError, nearest

PRESETS = Path(__file__).parent
LAYERS = PRESETS / "layers"
# Presets that begin so are searches.
SEARCH = "search_"


@dataclass(frozen=True)
class PresetPart:
    """Settings of one file of a preset."""

    name: str  # of the preset, file or layer
    tree: dict[str, Any]


def preset_names(prefix: str = "") -> list[str]:
    """Names of shipped presets; those of searches begin with `search_`."""
    return sorted(path.stem for path in PRESETS.glob(f"{prefix}*.yaml"))


def layer_names() -> list[str]:
    """Names of shipped layers, for any preset: `places2+laptop`."""
    return sorted(path.stem for path in LAYERS.glob("*.yaml"))


def run_names() -> list[str]:
    """Names of shipped presets that are one run."""
    return [name for name in preset_names() if not name.startswith(SEARCH)]


def preset_tree(preset: str, offered: Sequence[str] | None = None) -> dict[str, Any]:
    """Reads a name or file with layers, such as `my.yaml+laptop`.

    `base: PRESET` in a file puts that preset underneath. A search keeps its base, and the layers, as a name. An unknown
    name is answered with the nearest of those that are `offered` (None: those of runs).
    """
    tree: dict[str, Any] = {}
    for part in preset_parts(preset, offered):
        tree = merge(tree, part.tree)
    return tree


def preset_parts(preset: str, offered: Sequence[str] | None = None) -> list[PresetPart]:
    """Parts of a preset: bases, the file itself, layers."""
    return _parts(preset, [], run_names() if offered is None else offered)


def _read(file: Path) -> dict[str, Any]:
    # Imported late: names are needed without it.
    from trainplane.config.load import read_yaml

    return read_yaml(file)


def _parts(preset: str, parents: list[str], offered: Sequence[str]) -> list[PresetPart]:
    if preset in parents:
        raise UserError(f"preset {preset!r} is its own base ({' → '.join([*parents, preset])}); name another base")
    name, layers = _split_layers(preset)
    tree = _file_tree(name, offered)
    # The base of a search is resolved when its trials are built.
    if "search" in tree:
        base = {"base": "+".join([str(tree.get("base", "")), *layers])} if layers else {}
        return [PresetPart(name, {**tree, **base})]
    base = tree.pop("base", None)
    parts = [*(_parts(str(base), [*parents, preset], run_names()) if base is not None else []), PresetPart(name, tree)]
    for layer in layers:
        under: dict[str, Any] = {}
        for part in parts:
            under = merge(under, part.tree)
        over = _layer_tree(layer, str(under.get("model", {}).get("name", "")))
        parts.append(PresetPart(layer, {**over, "name": f"{under.get('name', '')}-{layer}"}))
    return parts


def _layer_tree(layer: str, model: str) -> dict[str, Any]:
    """Settings of a layer, with its own for a model."""
    tree = _read(LAYERS / f"{layer}.yaml")
    return merge(tree, tree.pop("of_model", {}).get(model, {}))


def is_shipped(preset: str) -> bool:
    """True for a shipped preset, with layers or without."""
    return _split_layers(preset)[0] in preset_names()


def _split_layers(preset: str) -> tuple[str, list[str]]:
    """Splits a preset into name or file, and layers."""
    # A file name may contain a plus sign itself.
    name, *layers = preset.split("+")
    if not layers or Path(preset).is_file():
        return preset, []
    if not name:
        raise UserError(f"{preset!r} is a layer alone; write a preset before it: demo{preset}")
    for layer in layers:
        if layer not in layer_names():
            hint = nearest(layer, layer_names())
            remedy = "" if hint.endswith("?") else f"; try {name}+laptop"
            raise UserError(f"no layer {layer!r} to put on {name!r}{hint}{remedy}")
    return name, layers


def _file_tree(name: str, offered: Sequence[str]) -> dict[str, Any]:
    shipped = PRESETS / f"{name}.yaml"
    # Shipped names win; everything that looks like a path is a file.
    if shipped.is_file():
        return _read(shipped)
    if name.lower().endswith((".yaml", ".yml")) or "/" in name:
        return _read(Path(name).expanduser())
    # An example of what is asked for.
    first = "demo" if "demo" in offered else "search_demo"
    if "=" in name:
        raise UserError(f"{name!r} stands where a preset is needed; write the preset first: {first} {name}")
    if name in layer_names():
        raise UserError(f"{name!r} is a layer, it goes on top of a preset; try {first}+{name}")
    hint = nearest(name, offered)
    raise UserError(f"no preset {name!r}{hint}" + ("" if hint.endswith("?") else "; name one of them, or a YAML file"))


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Merges `over` into `under`, section by section."""
    result = dict(under)
    for key, value in over.items():
        is_section = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merge(result[key], value) if is_section else value
    return result
