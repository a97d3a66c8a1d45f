"""Progress of a run on standard error: bar or lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from jobs.cli.format import duration

T = TypeVar("T")

# Metrics beside the bar, in this order. A run that records none of them shows its first losses.
SHOWN = {"val/psnr": "val psnr {:.2f} dB", "train/generator": "G {:.3g}", "train/discriminator": "D {:.3g}"}
LINE_EVERY_S = 5.0
DRAW_EVERY_S = 0.2


class Bar:
    """Progress of training steps; satisfies `trainplane.train.spec.Progress`.

    When the reader is gone (a closed terminal, `isnet train … 2>&1 | head`), training continues without output.
    """

    def __init__(self, what: str = "train") -> None:
        """Names the bar."""
        self._what = what
        self._bar: tqdm | None = None
        self._next = 0.0
        self._first: tuple[int, float] | None = None
        self._is_closed = False

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Shows the step, or prints a line every few seconds."""
        with self._while_open() as is_open:
            if is_open:
                self._show(step, steps, pictures_per_s, metrics)

    def emit(self, message: str) -> None:
        """Prints a message above the bar."""
        with self._while_open() as is_open:
            if is_open:
                tqdm.write(f"isnet: {message}", file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it is."""
        with self._while_open():
            if self._bar is not None:
                self._bar.close()

    @contextmanager
    def _while_open(self) -> Iterator[bool]:
        try:
            yield not self._is_closed
        except (OSError, ValueError):
            # ValueError: the stream itself was closed.
            self._is_closed = True

    def _show(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        # Not at every step, but always at the last one.
        if now < self._next and step != steps:
            return
        metrics_text = ", ".join([f"{pictures_per_s:.1f} pictures/s", *losses(metrics)])
        if sys.stderr.isatty():
            self._next = now + DRAW_EVERY_S
            if self._bar is None:
                # A bar wider than its window leaves a line behind at each drawing, and windows are resized.
                self._bar = tqdm(
                    total=steps,
                    initial=min(step, steps),
                    desc=self._what,
                    unit="step",
                    file=sys.stderr,
                    dynamic_ncols=True,
                )
            # Set, not advanced: a run may roll back. tqdm computes its rate and remaining time from it.
            self._bar.n = step
            self._bar.set_postfix_str(metrics_text, refresh=True)
            return
        # No terminal: a line from time to time keeps logs short.
        self._next = now + LINE_EVERY_S
        remaining = self._estimate(step, steps, now)
        print(f"{self._what}: step {step}/{steps}, {metrics_text}{remaining}", file=sys.stderr, flush=True)

    def _estimate(self, step: int, steps: int, now: float) -> str:
        """Formats the remaining time at the average pace so far."""
        # After a rollback the pace is measured again.
        if self._first is None or step < self._first[0]:
            self._first = step, now
        first_step, start = self._first
        if step <= first_step or step >= steps:
            return ""
        return f", {duration((steps - step) * (now - start) / (step - first_step))} left"


def losses(metrics: Mapping[str, float]) -> list[str]:
    """Formats the metrics that stand beside the bar."""
    texts = [form.format(metrics[name]) for name, form in SHOWN.items() if name in metrics]
    by_name = [
        f"{name.removeprefix('train/')} {value:.3g}" for name, value in metrics.items() if name.startswith("train/")
    ]
    return texts or by_name[:2]


def bar(items: Iterable[T], what: str, *, total: int | None = None) -> Iterable[T]:
    """Iterates with a bar on a terminal, silently elsewhere."""
    return tqdm(items, desc=what, total=total, file=sys.stderr, disable=None, leave=False, dynamic_ncols=True)
