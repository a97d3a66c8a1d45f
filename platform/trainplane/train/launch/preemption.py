"""Detects the coming end of a rank.

SIGTERM and Ray's draining of a node set a flag. The loop reads it after each step; then all ranks save and stop, and
the run resumes elsewhere. Ray Train's training function is a thread, but signal handlers need the main thread: hence
the backend below.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from ray.train.backend import Backend
from ray.train.torch import TorchConfig

DRAIN_POLL_S = 5.0

_preempted = threading.Event()


def is_preempted() -> bool:
    """True once this process knows that it will be ended."""
    return _preempted.is_set()


class PreemptibleTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's torch process group, with a SIGTERM handler."""

    @property
    def backend_cls(self) -> type[Backend]:
        """Ray's backend class, extended by the handler."""
        return _backend(super().backend_cls)


def _backend(torch_backend: type[Backend]) -> type[Backend]:
    class PreemptibleBackend(torch_backend):  # type: ignore[valid-type,misc]
        """Sets the SIGTERM handler before training starts."""

        def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
            """Called by Ray Train when all workers have started."""
            super().on_training_start(worker_group, backend_config)
            worker_group.execute(_set_sigterm_handler)

    return PreemptibleBackend


def _set_sigterm_handler() -> None:
    # Makes the first SIGTERM a notice. Runs in the main thread of a worker. The second SIGTERM ends the process as
    # before.
    before = signal.getsignal(signal.SIGTERM)

    def handle(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        _preempted.set()

    signal.signal(signal.SIGTERM, handle)


def start_drain_poll() -> None:
    """Starts a thread that asks Ray for drained nodes."""
    # Ray drains a node before a spot instance ends, for example. It needs all ranks to ask together, so each rank has
    # such a thread; it ends with the process.
    threading.Thread(target=_poll_drain, name="drain", daemon=True).start()


def _poll_drain() -> None:
    from ray import train

    pause = threading.Event()
    while not pause.wait(DRAIN_POLL_S):
        if train.get_preemption_info() is not None:
            _preempted.set()
            return
