"""PURE: which metrics are still tried while the disk is full, and what is said of those that were lost.

After a failed write only every second step is tried, then every fourth, up to every 64th: a curve with gaps all over
says more than one that ends, and a full disk is not asked every step. Each success halves the gaps again.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST = 64


@dataclass
class Thinning:
    """stride -- one of so many steps is tried; lost -- steps whose metrics are not recorded, the first and last."""

    stride: int = 1
    lost: int = 0
    first: int = 0
    last: int = 0
    _skipped: int = 0

    def tries(self) -> bool:
        """Whether this step is one to try."""
        if self._skipped + 1 < self.stride:
            self._skipped += 1
            return False
        self._skipped = 0
        return True

    def after_loss(self, step: int, *, tried: bool) -> None:
        self.first = step if not self.lost else self.first
        self.lost, self.last = self.lost + 1, step
        if tried:
            self.stride = min(MOST, 2 * self.stride)

    def after_success(self) -> bool:
        """Whether all is well again, after there were losses."""
        was = self.stride
        self.stride = max(1, self.stride // 2)
        return was > 1 and self.stride == 1

    def __str__(self) -> str:
        return f"metrics of {self.lost} steps from {self.first} to {self.last} were lost to a full disk"
