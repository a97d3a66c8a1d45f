"""Timing in turns: what is compared is run alternately, and a ratio is the median of those of neighbours.

The load of a shared machine drifts over seconds to minutes. Runs that stand side by side feel the same of it, so the
ratio of two neighbours is steadier than either time.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
from PIL import Image

Clock = Literal["wall", "cpu"]


@dataclass(frozen=True)
class Taken:
    """One run. wall and cpu: seconds; cpu counts all threads of this process."""

    wall: float
    cpu: float

    def by(self, clock: Clock) -> float:
        return self.wall if clock == "wall" else self.cpu


def in_turns(ways: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[Taken]]:
    """Run each way `warmup` times unrecorded, then `rounds` times in turns; every second round in reverse order."""
    return taken_in_turns({name: partial(timed, run) for name, run in ways.items()}, rounds=rounds, warmup=warmup)


def taken_in_turns(ways: Mapping[str, Callable[[], Taken]], *, rounds: int, warmup: int) -> dict[str, list[Taken]]:
    """The same of ways that time themselves, because only a part of each run is compared."""
    names = list(ways)
    taken: dict[str, list[Taken]] = {name: [] for name in names}
    for number in range(-warmup, rounds):
        for name in names if number % 2 == 0 else reversed(names):
            one = ways[name]()
            if number >= 0:
                taken[name].append(one)
    return taken


def timed(run: Callable[[], object]) -> Taken:
    """Time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def median_ratio(of: list[Taken], to: list[Taken], *, clock: Clock = "wall") -> float:
    """Median of the quotients of neighbours: above 1 where `of` takes longer."""
    return statistics.median(a.by(clock) / b.by(clock) for a, b in zip(of, to, strict=True))


def median(taken: list[Taken], *, clock: Clock = "wall") -> float:
    """Median of the times, seconds."""
    return statistics.median(one.by(clock) for one in taken)


def machine() -> dict[str, object]:
    """What a figure was measured on: processor, cores, memory, versions, and how busy it was."""
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith(("model name", "flags")))
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = fields.get("flags", "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(wide) or 'no wide vectors'})"


def slope(values: Sequence[float]) -> float:
    """Slope of a straight line through the values at 0, 1, 2, …; 0 for fewer than three."""
    return float(np.polyfit(range(len(values)), values, 1)[0]) if len(values) > 2 else 0.0


def smooth_photos(folder: Path) -> Path:
    """Writes twelve smooth photos of 70x90 pixels into `folder`/photos."""
    photos = folder / "photos"
    photos.mkdir()
    for number in range(12):
        rng = np.random.default_rng(number)
        y, x = np.mgrid[0:70, 0:90]
        waves = [np.sin(x * rng.uniform(0.02, 0.2) + y * rng.uniform(0.02, 0.2)) for _ in range(3)]
        picture = np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1)
        Image.fromarray(picture).save(photos / f"{number:02}.png")
    return photos
