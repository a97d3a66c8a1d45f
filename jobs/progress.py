"""How far a run is: a bar on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Bar:
    """Progress of training steps; satisfies `trainplane.train.loop.Progress`."""

    def __init__(self, what: str = "train") -> None:
        self._what = what
        self._bar: tqdm | None = None
        self._next_line = 0.0

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Show `step` of `steps`; on no terminal, a line every few seconds."""
        facts = f"{pictures_per_s:.1f} pictures/s"
        if "val/psnr" in metrics:
            facts += f", val psnr {metrics['val/psnr']:.2f} dB"
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=steps, initial=min(step, steps), desc=self._what, unit="step", file=sys.stderr)
            self._bar.n = step
            self._bar.set_postfix_str(facts, refresh=True)
            return
        now = time.monotonic()
        if now >= self._next_line or step == steps:
            self._next_line = now + 5.0
            print(f"{self._what}: step {step}/{steps}, {facts}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def bar(items: Iterable[T], what: str, *, total: int | None = None) -> Iterable[T]:
    """Iterate with a bar on a terminal, silently elsewhere."""
    return tqdm(items, desc=what, total=total, file=sys.stderr, disable=None, leave=False)
