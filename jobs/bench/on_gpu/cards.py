"""Arithmetic that a card can do at most.

NVIDIA's data sheets, dense bf16 products on tensor cores, in TFLOP/s. The longest name that fits counts.
"""

from __future__ import annotations

_DENSE_BF16 = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "A40": 150.0,
    "A30": 165.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX A6000": 155.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def peak_tflops(name: str) -> float | None:
    """Dense bf16 TFLOP/s of a card; None: unknown."""
    fitting = [card for card in _DENSE_BF16 if card in name]
    return _DENSE_BF16[max(fitting, key=len)] if fitting else None
