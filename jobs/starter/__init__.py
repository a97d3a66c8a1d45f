"""The small model that ships with the package.

Its folder holds the weights, their digest and architecture, the card and the licences of the photos (`README.md`,
`photos.csv`). It is beside `isnet/` and not in it: every registered model carries a copy of that package.
"""

from __future__ import annotations

import json
from pathlib import Path

from isnet.weights import CONFIG, TENSORS

FOLDER = Path(__file__).parent


def digest() -> str:
    """Returns the sha256 of the weights that the configuration names."""
    config = json.loads((FOLDER / CONFIG).read_text(encoding="utf-8"))
    return str(config["sha256"][TENSORS])
