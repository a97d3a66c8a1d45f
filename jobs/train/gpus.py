"""Finds out what is wrong with this machine's GPUs.

Facts are read once (`read_gpus`, from NVIDIA's library where it is installed and from torch); what follows from them is
a pure function. Not covered: AMD's and Apple's processors, on which this was never tried.
"""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jobs.cli.findings import Finding
from trainplane.command_line import command_line

# Oldest driver of a CUDA version, by its major number; NVIDIA's release notes of the toolkit.
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 0)}
# `places2` as shipped is reckoned at 3.0 GiB at the peak of a step, at 5.2 in float32, and a context beside it.
LEAST_GIB = 6
# bf16 in hardware, since Ampere.
LEAST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class Card:
    """One GPU, as torch or the driver sees it."""

    name: str
    gib: float
    capability: tuple[int, int] = (0, 0)  # (0, 0): unknown
    is_slice: bool = False  # a part of a card (MIG)


@dataclass(frozen=True)
class GpuFacts:
    """GPUs of this machine, and what drives them."""

    cards: tuple[Card, ...]  # those that torch can use
    installed: tuple[str, ...] = ()  # names of those that the driver sees
    driver: str | None = None  # its version; None: no driver
    cuda: str | None = None  # CUDA version that torch was built with; None: a CPU build
    torch: str = ""  # version of torch


def gpu_findings(facts: GpuFacts) -> Iterator[Finding]:
    """Judges GPUs; pure, errors first in importance."""
    if not facts.cards:
        yield _missing(facts)
        return
    if (old := _old_driver(facts)) is not None:
        yield old
    yield Finding("ok", f"GPU: {', '.join(f'{card.name}, {card.gib:.0f} GiB' for card in facts.cards)}")
    if len({card.name for card in facts.cards}) > 1:
        kinds = ", ".join(sorted({card.name for card in facts.cards}))
        yield Finding(
            "warning",
            f"GPU: this machine has cards of different kinds ({kinds}), and every step waits for the slowest",
            "show one kind to a run with CUDA_VISIBLE_DEVICES",
        )
    for card in {card.name: card for card in facts.cards}.values():
        yield from _faults(card)


def _faults(card: Card) -> Iterator[Finding]:
    if card.is_slice:
        yield Finding(
            "warning",
            f"GPU: {card.name} is a MIG slice, and ranks on slices of one card cannot sum by NCCL",
            "set train.workers=1, or have MIG switched off by who runs the machine",
        )
    if card.gib < LEAST_GIB:
        yield Finding(
            "warning",
            f"GPU: {card.name} has {card.gib:.1f} GiB, and places2 as shipped needs {LEAST_GIB}",
            f"set train.micro_batch=1; `{command_line('plan', 'train', 'PRESET')}` says what a run needs",
        )
    if (0, 0) < card.capability < LEAST_CAPABILITY:
        yield Finding(
            "warning",
            f"GPU: {card.name} has compute capability {'.'.join(map(str, card.capability))}, and bf16 needs 8.0",
            "set train.precision=fp32",
        )


def _missing(facts: GpuFacts) -> Finding:
    if facts.driver is None and not facts.installed:
        return Finding("note", "GPU: none; training runs on the CPU")
    cards = ", ".join(facts.installed) or "a card"
    if facts.cuda is None:
        return Finding(
            "error",
            f"GPU: this machine has {cards}, and torch {facts.torch} is a build for CPUs",
            f"install torch's CUDA build (pip install torch=={facts.torch.partition('+')[0]} from PyPI)",
        )
    if (old := _old_driver(facts)) is not None:
        return old
    return Finding(
        "warning",
        f"GPU: the driver {facts.driver} sees {cards}, and torch sees none",
        "look at CUDA_VISIBLE_DEVICES, and whether the driver was updated without a restart",
    )


def _old_driver(facts: GpuFacts) -> Finding | None:
    if facts.driver is None or facts.cuda is None:
        return None
    oldest = OLDEST_DRIVER.get(int(facts.cuda.partition(".")[0]))
    numbers = tuple(int(part) for part in facts.driver.split(".")[:2] if part.isdigit())
    if oldest is None or not numbers or numbers >= oldest:
        return None
    need = f"{oldest[0]}.{oldest[1]:02d}" if oldest[1] else str(oldest[0])
    return Finding(
        "error",
        f"GPU: the driver is {facts.driver}, and torch's CUDA {facts.cuda} needs {need} or newer",
        "update NVIDIA's driver, or install a torch that was built with an older CUDA",
    )


def read_gpus() -> GpuFacts:
    """Reads the facts of this machine; raises nothing."""
    import torch

    cards = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        name = str(properties.name)
        # A slice is named after its card and its share, such as "A100 … MIG 1g.10gb".
        cards.append(Card(name, properties.total_memory / 2**30, (properties.major, properties.minor), "MIG " in name))
    driver, installed = _by_driver()
    return GpuFacts(tuple(cards), installed, driver, torch.version.cuda, str(torch.__version__))


def _by_driver() -> tuple[str | None, tuple[str, ...]]:
    # The driver's version and its cards. Without NVIDIA's library its program says that there is a driver.
    with suppress(Exception):
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return str(nvml.nvmlSystemGetDriverVersion()), tuple(str(nvml.nvmlDeviceGetName(each)) for each in handles)
    return ("unknown" if shutil.which("nvidia-smi") else None), ()
