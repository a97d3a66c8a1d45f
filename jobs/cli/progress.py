"""How far a run is: a bar on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


# Shown beside the bar where the run records them, in this order; the first losses that are there otherwise.
SHOWN = {"val/psnr": "val psnr {:.2f} dB", "train/generator": "G {:.3g}", "train/discriminator": "D {:.3g}"}
LINE_EVERY_S = 5.0
DRAW_EVERY_S = 0.2


class Bar:
    """Progress of training steps; satisfies `trainplane.train.spec.Progress`.

    Where nobody can read it any more (a closed terminal, `isnet train … 2>&1 | head`), training goes on unseen.
    """

    def __init__(self, what: str = "train") -> None:
        self._what = what
        self._bar: tqdm | None = None
        self._next = 0.0
        self._began: tuple[int, float] | None = None
        self._gone = False

    def update(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        """Show `step` of `steps`; on no terminal, a line every few seconds."""
        with self._if_anybody_reads() as reads:
            if reads:
                self._show(step, steps, pictures_per_s, metrics)

    def tell(self, sentence: str) -> None:
        """A line of its own, above the bar."""
        with self._if_anybody_reads() as reads:
            if reads:
                tqdm.write(f"isnet: {sentence}", file=sys.stderr)

    def close(self) -> None:
        with self._if_anybody_reads():
            if self._bar is not None:
                self._bar.close()

    @contextmanager
    def _if_anybody_reads(self) -> Iterator[bool]:
        try:
            yield not self._gone
        except (OSError, ValueError):
            # ValueError: the stream itself was closed.
            self._gone = True

    def _show(self, step: int, steps: int, pictures_per_s: float, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now < self._next and step != steps:
            return
        facts = ", ".join([f"{pictures_per_s:.1f} pictures/s", *losses(metrics)])
        if sys.stderr.isatty():
            self._next = now + DRAW_EVERY_S
            if self._bar is None:
                # Windows change their width; a bar that is wider leaves a line behind at each drawing.
                self._bar = tqdm(
                    total=steps,
                    initial=min(step, steps),
                    desc=self._what,
                    unit="step",
                    file=sys.stderr,
                    dynamic_ncols=True,
                )
            # A run that went back is drawn where it stands; tqdm's own rate and time left follow.
            self._bar.n = step
            self._bar.set_postfix_str(facts, refresh=True)
            return
        self._next = now + LINE_EVERY_S
        left = self._estimate(step, steps, now)
        print(f"{self._what}: step {step}/{steps}, {facts}{left}", file=sys.stderr, flush=True)

    def _estimate(self, step: int, steps: int, now: float) -> str:
        """Time left at the pace since the first update, as text; nothing before there is a pace."""
        if self._began is None or step < self._began[0]:
            self._began = step, now
        began, since = self._began
        if step <= began or step >= steps:
            return ""
        return f", {duration((steps - step) * (now - since) / (step - began))} left"


def losses(metrics: Mapping[str, float]) -> list[str]:
    """What of the recorded metrics is worth showing all the time."""
    known = [form.format(metrics[name]) for name, form in SHOWN.items() if name in metrics]
    others = [
        f"{name.removeprefix('train/')} {value:.3g}" for name, value in metrics.items() if name.startswith("train/")
    ]
    return known or others[:2]


def duration(seconds: float) -> str:
    """`42 s`, `7 min`, `3 h 05 min`, `2 d 4 h`: as precise as one cares to know."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def bar(items: Iterable[T], what: str, *, total: int | None = None) -> Iterable[T]:
    """Iterate with a bar on a terminal, silently elsewhere."""
    return tqdm(items, desc=what, total=total, file=sys.stderr, disable=None, leave=False, dynamic_ncols=True)
