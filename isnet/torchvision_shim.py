"""Makes `import torchvision` succeed beside a CPU-only torch.

Call `ensure_torchvision()` before importing timm or torchmetrics. The wheel of torchvision on PyPI is built for CUDA.
Its compiled part cannot be loaded without CUDA's libraries, so two operators stay unregistered. Then the import of
torchvision, and with it that of timm and torchmetrics, fails with `operator torchvision::nms does not exist`. Declaring
the two is enough, since nothing here calls them. A matching pair of wheels imports at once. Not covered:
`torchvision.io` and the real operators stay unusable.
"""

from __future__ import annotations

import importlib
import sys

import torch

_MISSING_OPERATORS = ("nms", "qnms")
# Keeps the library objects alive: garbage collection of one removes its declarations.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Imports torchvision, and declares missing operators if needed.

    Cheap when it is already imported.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        # Try again from the start, with the operators declared.
        _remove_partial_import()
        _declare_operators()
        importlib.import_module("torchvision")


def _remove_partial_import() -> None:
    for name in [name for name in sys.modules if name == "torchvision" or name.startswith("torchvision.")]:
        del sys.modules[name]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in _MISSING_OPERATORS:
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    _declared.append(library)
