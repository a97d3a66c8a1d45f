"""The kill task, whose ranks stop themselves (SIGSTOP) at the beginning of a phase, once a run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from kill_task import KillConfig, KillTask

from trainplane.train.launch.stall import BEAT_S
from trainplane.train.pulse import Pulse
from trainplane.train.world import World


class StopConfig(KillConfig):
    """`stop`: rank, phase and step, such as "1 data 5"; none: nobody stops."""

    task: str = "stop_task:StopTask"
    stop: str = ""


class StopTask(KillTask):
    Config = StopConfig

    def __init__(self, config: Any, device: torch.device) -> None:
        super().__init__(config, device)
        if config.stop:
            _watch_phases(config.stop, self.moments.folder)


def _watch_phases(stop: str, folder: Path) -> None:
    rank, phase, step = stop.split()
    at = Pulse.at

    @contextmanager
    def watched(pulse: Pulse, name: str) -> Iterator[None]:
        with at(pulse, name):
            if name == phase and pulse.step >= int(step) and World.current().rank == int(rank):
                _stop_once(folder / "stopped")
            yield

    Pulse.at = watched  # type: ignore[method-assign]


def _stop_once(mark: Path) -> None:
    try:
        with mark.open("x") as file:
            file.write(f"{os.getpid()} {time.time()}")
    except FileExistsError:
        return
    # A pulse tells the phase; then there is none.
    time.sleep(1.5 * BEAT_S)
    os.kill(os.getpid(), signal.SIGSTOP)
