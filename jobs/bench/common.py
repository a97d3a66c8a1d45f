"""Timing in turns, figures and their report, for all benches.

The load of a shared machine drifts over seconds to minutes. Runs that stand side by side feel the same of it, so the
ratio of two neighbours is steadier than either time.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import psutil
from PIL import Image

from isnet.masks import irregular
from jobs.cli.main import emit
from trainplane.environ import preserved_variables

Clock = Literal["wall", "cpu"]
Figure = dict[str, Any]
Result = TypeVar("Result")
_MEETS: dict[str, Callable[[float, float], bool]] = {
    "≤": lambda value, bound: value <= bound,
    "≥": lambda value, bound: value >= bound,
    "<": lambda value, bound: value < bound,
}


@dataclass(frozen=True)
class Timing:
    """Seconds of one run; `cpu` counts all threads."""

    wall: float
    cpu: float

    def by(self, clock: Clock) -> float:
        """Time by one of the two clocks, seconds."""
        return self.wall if clock == "wall" else self.cpu


def in_turns(ways: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1) -> dict[str, list[Timing]]:
    """Times each way `rounds` times, in turns."""
    return results_in_turns({name: partial(timed, run) for name, run in ways.items()}, rounds=rounds, warmup=warmup)


def results_in_turns(ways: Mapping[str, Callable[[], Result]], *, rounds: int, warmup: int) -> dict[str, list[Result]]:
    """Collects each way's own results, `rounds` of them, in turns.

    Each way runs `warmup` times unrecorded before. Every second round goes in reverse order.
    """
    results: dict[str, list[Result]] = {name: [] for name in ways}
    for number in range(-warmup, rounds):
        # Reversed every second time, so that none always runs after the same one.
        for name in ways if number % 2 == 0 else reversed(list(ways)):
            result = ways[name]()
            if number >= 0:
                results[name].append(result)
    return results


def timed(run: Callable[[], object]) -> Timing:
    """Time of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return Timing(time.perf_counter() - wall, time.process_time() - cpu)


def quotients(of: Sequence[float], to: Sequence[float]) -> list[float]:
    """Quotients of neighbours, sorted."""
    return sorted(a / b for a, b in zip(of, to, strict=True))


def median_quotient(of: Sequence[float], to: Sequence[float]) -> float:
    """Median of the quotients of neighbours."""
    return statistics.median(quotients(of, to))


def median_ratio(of: Sequence[Timing], to: Sequence[Timing], *, clock: Clock = "wall") -> float:
    """Median of neighbours' quotients; above 1 where `of` takes longer."""
    return median_quotient([run.by(clock) for run in of], [run.by(clock) for run in to])


def median(timings: Sequence[Timing], *, clock: Clock = "wall") -> float:
    """Median of the times, seconds."""
    return statistics.median(run.by(clock) for run in timings)


def figure(
    name: str, value: float | None, unit: str, target: float | str | None = None, met: bool | None = None
) -> Figure:
    """One row of a report: {name, value, unit, target, met}.

    A number as target is an upper bound; a string begins with ≤, ≥ or <. `met` is derived unless it is given.
    """
    if met is None and target is not None:
        # A bare number is an upper bound.
        sign, bound = target.split() if isinstance(target, str) else ("≤", target)
        met = value is not None and _MEETS[sign](value, float(bound))
    if isinstance(target, float):
        target = round(target, 4)
    return {"name": name, "value": value and round(value, 4), "unit": unit, "target": target, "met": met}


def figures_text(figures: Sequence[Figure]) -> str:
    """One line for each figure, with its target."""
    width = max((len(row["name"]) for row in figures), default=0)
    lines = []
    for row in figures:
        # A figure without a target has no verdict.
        verdict = "" if row["met"] is None else f"   target {row['target']}: {'yes' if row['met'] else 'NO'}"
        spread = " ({}–{})".format(*row["range"]) if "range" in row else ""
        lines.append(f"{row['name']:<{width}} {row['value']!s:>10}{spread} {row['unit']}{verdict}")
    return "\n".join(lines)


def report(args: argparse.Namespace, figures: Sequence[Figure], text: str | None = None, **details: Any) -> int:
    """Prints the report; returns 1 where a target is missed."""
    payload = {"machine": machine(), **details, "figures": figures}
    emit(args, payload, figures_text(figures) if text is None else text)
    return 1 if any(row["met"] is False for row in figures) else 0


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions and load of this machine."""
    # Imported late: it takes seconds.
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


def machine_line() -> str:
    """Machine as the first line of a report."""
    info = machine()
    return f"{info['processor']}, {info['threads']} threads, load {info['load_1min']}, torch {info['torch']}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            lines = dict(line.split(":", 1) for line in file if line.startswith(("model name", "flags")))
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    # The vector units decide how fast arithmetic is; bf16 ones above all.
    flags = fields.get("flags", "").split()
    wide = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{fields.get('model name', platform.machine())} ({', '.join(wide) or 'no wide vectors'})"


def peak_bytes() -> int:
    """Highest resident memory of this program so far."""
    # Linux's own figure: the maximum of getrusage outlives exec, so a child starts with that of its creator.
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextmanager
def only_store(variables: Mapping[str, str]) -> Iterator[None]:
    """Leads the environment to one S3 server during the block."""
    # The user's own settings for Amazon must not be mixed in.
    foreign = [name for name in os.environ if name.startswith("AWS_")]
    with preserved_variables(*foreign, *variables):
        for name in foreign:
            del os.environ[name]
        os.environ.update(variables)
        yield


def slope(values: Sequence[float]) -> float:
    """Slope of a line through the values; 0 below three."""
    return float(np.polyfit(range(len(values)), values, 1)[0]) if len(values) > 2 else 0.0


def smooth_photos(folder: Path, *, count: int = 12, height: int = 70, width: int = 90, suffix: str = "png") -> Path:
    """Writes smooth photos into `folder`/photos, and returns that folder."""
    photos = folder / "photos"
    photos.mkdir()
    y, x = np.mgrid[0:height, 0:width]
    for number in range(count):
        # Each photo is of its own seed, so that a set of more photos begins with the same.
        rng = np.random.default_rng(number)
        waves = [np.sin(x * rng.uniform(0.02, 0.2) + y * rng.uniform(0.02, 0.2)) for _ in range(3)]
        picture = np.stack([(127 + 120 * wave).astype(np.uint8) for wave in waves], axis=-1)
        Image.fromarray(picture).save(photos / f"{number:05}.{suffix}", quality=90)
    return photos


def write_holes(folder: Path, count: int, side: int) -> None:
    """Writes square masks with holes of 20 to 30 %."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        Image.fromarray(irregular(side, side, rng, ratio=(0.2, 0.3))).save(folder / f"{number:05d}.png")
