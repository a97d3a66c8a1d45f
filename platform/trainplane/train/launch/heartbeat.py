"""Sends a rank's pulse, and reads a stuck rank's stack."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from trainplane.storage.s3.retry import RETRIES
from trainplane.store_wait import STORE_WAITS
from trainplane.train.launch.stall import BEAT_S, RankPulse
from trainplane.train.pulse import PULSE

# Time for a process on another node to start and to read a stack.
STACK_S = 40.0


def send_pulse(actor: Any, *, rank: int, node: str) -> None:
    """Sends this rank's pulse to the actor, from a thread."""
    host, pid, pause = socket.gethostname(), os.getpid(), threading.Event()

    def run() -> None:
        while True:
            # A read that is tried again, or waits for a store that is away, is no stall: it has a limit of its own.
            moves = PULSE.moves + RETRIES.value + STORE_WAITS.beats
            pulse = RankPulse(rank, host, node, pid, PULSE.step, PULSE.phase, int(moves), PULSE.begun > 1)
            actor.beat.remote(pulse)
            pause.wait(BEAT_S)

    threading.Thread(target=run, name="pulse", daemon=True).start()


def stack_of(ray: Any, pulse: RankPulse) -> str:
    """Returns a rank's stack, or why there is none."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(pulse.node, soft=False)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(dump_stack).options(scheduling_strategy=there)
        return str(ray.get(task.remote(pulse.pid), timeout=STACK_S))
    except ray.exceptions.RayError as error:
        return f"no stack: {str(error).strip().splitlines()[0]}"


def dump_stack(pid: int) -> str:
    """Reads the stacks of all threads of a process here."""
    beside = Path(sys.executable).with_name("py-spy")
    program = str(beside) if beside.exists() else shutil.which("py-spy")
    if program is None:
        return "no stack: py-spy is not installed"
    # The process is stuck, so it need not be stopped for this; one that is stopped already could not be.
    try:
        done = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(pid)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no stack: py-spy did not answer"
    return done.stdout if done.returncode == 0 else f"no stack: {done.stderr.strip()[:300]}"
