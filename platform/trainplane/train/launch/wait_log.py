"""Shows and records waits of ranks for the store."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from trainplane.storage import StoreAway
from trainplane.store_wait import STORE_WAITS, Wait
from trainplane.tracking.tracker import Recorder
from trainplane.train.errors import Halted
from trainplane.train.spec import Progress
from trainplane.train.world import World

# Tag of the run: rank 0's wait, and since when.
WAIT_TAG = "trainplane.store_wait"


@contextmanager
def waits_told(world: World, progress: Progress, tracker: Recorder, interrupted: Callable[[], bool]) -> Iterator[None]:
    """Shows this rank's waits during the block.

    Those of rank 0 are recorded. An interruption ends them. What the block has not saved by then is lost, as after a
    kill: nothing can be saved.
    """

    def tell(wait: Wait) -> None:
        progress.emit(str(wait) if world.size == 1 else f"rank {world.rank} on {socket.gethostname()}: {wait}")
        tracker.set_tags({WAIT_TAG: str(wait)[:500]})

    # This process may have waited already, between the run's first tags and here.
    if tags := ended_wait_tags():
        tracker.set_tags(tags)
    try:
        with STORE_WAITS.listening(tell, interrupted):
            yield
    except StoreAway as error:
        if not interrupted():
            raise
        # The other ranks wait for this one in a sum, which only an error of a rank ends.
        raise KeyboardInterrupt if world.size == 1 else Halted("stopped while the store was away") from error


def ended_wait_tags() -> dict[str, str]:
    """Tag of an outage that is not recorded yet."""
    wait = STORE_WAITS.last_ended
    return {} if wait is None else {WAIT_TAG: str(wait)[:500]}


def report_waits(is_due: bool, done: int, emit: Callable[[int, str], None], world: World, device: torch.device) -> None:
    """Emits the waits of all ranks; called on all ranks."""
    if not is_due:
        return
    texts = world.gather(json.dumps([str(wait) for wait in STORE_WAITS.take_ended()]).encode(), device)
    by_rank = {rank: json.loads(text) for rank, text in enumerate(texts)}
    lines = [f"rank {rank} {wait}" for rank, waits in by_rank.items() for wait in waits]
    if lines:
        emit(done, "\n".join(lines))
