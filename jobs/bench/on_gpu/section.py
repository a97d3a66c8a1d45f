"""Runs one section: `python -m jobs.bench.on_gpu.section NAME DEVICE FILE`.

A process of its own: what breaks a GPU's context, fills its memory or hangs ends that section alone.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.bench.on_gpu.scale import Scale

# Section -> module, and its share of the time.
SECTIONS: dict[str, tuple[str, float]] = {
    "adam": ("arithmetic", 1),
    "steps": ("arithmetic", 3),
    "compiling": ("arithmetic", 3),
    "kernels": ("arithmetic", 2),
    "memory": ("arithmetic", 1.5),
    "inference": ("arithmetic", 1.5),
    "methods": ("arithmetic", 2),
    "loading": ("training", 1),
    "staging": ("training", 1),
    "ranks": ("training", 1.5),
    "resume": ("training", 2.5),
}


def main(name: str, device: str, file: str) -> None:
    """Writes the section's result as JSON."""
    module = importlib.import_module(f"jobs.bench.on_gpu.{SECTIONS[name][0]}")
    section: Callable[[Scale], dict[str, Any]] = getattr(module, name)
    Path(file).write_text(json.dumps(section(Scale.of(device))), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
