"""Usage of other nodes than rank 0's, for system metrics.

One rank on each node samples its machine and sends the result to the actor; rank 0, which records the run, asks there.
Neither waits for an answer.
"""

from __future__ import annotations

import threading
from typing import Any

from trainplane.tracking.system_metrics import MachineUsage
from trainplane.tracking.tracker import MONITOR_EVERY_S


def send_usage(actor: Any, *, node: int, every_s: float = MONITOR_EVERY_S) -> None:
    """Sends this node's usage to the actor, from a thread."""
    # It ends with the process, as the rank does.
    usage, pause = MachineUsage(), threading.Event()

    def run() -> None:
        while not pause.wait(every_s):
            actor.set_usage.remote(node, usage.sample())

    threading.Thread(target=run, name="node-usage", daemon=True).start()


class OtherNodes:
    """Newest usage of the other nodes; a call never waits."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._answer: Any = None
        self._usage: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        """Returns what has arrived, by `node-N/name`, and asks again."""
        import ray

        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._usage = ray.get(self._answer)
            self._answer = None
        if self._answer is None:
            self._answer = self._actor.take_usage.remote()
        # Each sample counts once: a node that is gone leaves no line that goes on.
        usage, self._usage = self._usage, {}
        return usage
