"""Notice that a rank's time is short: SIGTERM to its process, or Ray draining its node.

Either is a flag here; the loop reads it after each step, all ranks save where they stand, and the run goes on
elsewhere. Runs inside Ray Train's workers, whose training function is a thread: signals are for the main thread, where
the backend below sets the handler.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

from ray.train.backend import Backend
from ray.train.torch import TorchConfig

DRAIN_POLL_S = 5.0

_given = threading.Event()


def given() -> bool:
    """Whether this process was told that it will end."""
    return _given.is_set()


class NoticedTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray's process group for torch, whose workers take SIGTERM as a notice and not as their end."""

    @property
    def backend_cls(self) -> type[Backend]:
        return _backend(super().backend_cls)


def _backend(torch_backend: type[Backend]) -> type[Backend]:
    class NoticedBackend(torch_backend):  # type: ignore[valid-type,misc]
        def on_training_start(self, worker_group: Any, backend_config: Any) -> None:
            super().on_training_start(worker_group, backend_config)
            worker_group.execute(_listen)

    return NoticedBackend


def _listen() -> None:
    """In a worker's main thread: the first SIGTERM is a notice, the next one ends the process as it always did."""
    before = signal.getsignal(signal.SIGTERM)

    def take(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        _given.set()

    signal.signal(signal.SIGTERM, take)


def watch_for_drain() -> None:
    """In every rank: learn from Ray that a node of the group is being drained, as before a spot instance goes.

    Ray asks all ranks to call together, so each has a thread for it; it ends with the process.
    """
    threading.Thread(target=_poll_drain, name="drain", daemon=True).start()


def _poll_drain() -> None:
    from ray import train

    pause = threading.Event()
    while not pause.wait(DRAIN_POLL_S):
        if train.get_preemption_info() is not None:
            _given.set()
            return
