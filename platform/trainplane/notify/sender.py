"""Sends pending events, target by target, and waits after failures."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainplane.errors import UserError
from trainplane.locks import FileLock
from trainplane.notify import by_apprise, webhook
from trainplane.notify.event import Event
from trainplane.notify.outbox import Outbox, Pending
from trainplane.notify.private_address import NotPublic
from trainplane.notify.targets import Target
from trainplane.notify.webhook import Undelivered

log = logging.getLogger(__name__)

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 600.0


def next_wait_s(failures: int, asked_s: float | None) -> float:
    """Pause after so many failures in a row. Pure.

    `asked_s` is what the receiver asked for.
    """
    doubled = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures - 1, 20))
    return min(max(doubled, asked_s or 0.0), LONGEST_WAIT_S)


def send(event: Event, target: Target) -> None:
    """Sends one event to a resolved target.

    Raises:
        Undelivered: It was not taken; another attempt may succeed.
        UserError: The target cannot be used as it is configured.
    """
    try:
        if target.apprise:
            by_apprise.send(event, target)
        else:
            webhook.post(event, target)
    except NotPublic as error:
        raise UserError(f"webhook of notify.{target.name}: {error}; set allow_private = true for this target") from None
    except OSError as error:
        raise Undelivered(f"the name of notify.{target.name} is not known ({error.strerror or error})") from error


@dataclass
class _Pause:
    failures: int = 0
    until: float = 0.0
    reason: str = ""


class Sender:
    """Delivers pending events; pauses after failures, target by target."""

    def __init__(
        self,
        targets: Mapping[str, Target],
        locks: Path,
        *,
        deliver: Callable[[Event, Target], None] = send,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Sends nothing yet.

        Args:
            targets: Resolved targets by name.
            locks: Folder of this machine in which senders agree who sends to a target.
            deliver: Sends one event.
            clock: Seconds that never go back.
        """
        self._targets, self._locks, self._deliver, self._clock = targets, locks, deliver, clock
        self._pauses: dict[str, _Pause] = {}

    def send_due(self, outbox: Outbox) -> int:
        """Sends what is due, in order; returns the number delivered."""
        count = 0
        for item in outbox.pending():
            target = self._targets.get(item.target)
            # A target that this sender does not know may be another context's.
            if target is None or self._clock() < self._pause(item.target).until:
                continue
            # Two senders of this machine never send one event at the same moment.
            with FileLock(self._locks / f"{item.target}.lock").attempt() as is_ours:
                if is_ours:
                    count += self._send_one(outbox, item, target)
        return count

    def wait_s(self) -> float:
        """Seconds until a target may be tried again."""
        now = self._clock()
        return max(0.0, min((pause.until - now for pause in self._pauses.values() if pause.failures), default=0.0))

    def failing(self) -> dict[str, str]:
        """Reason by target that did not take its last event."""
        return {name: pause.reason for name, pause in self._pauses.items() if pause.failures}

    def _pause(self, target: str) -> _Pause:
        return self._pauses.setdefault(target, _Pause())

    def _send_one(self, outbox: Outbox, item: Pending, target: Target) -> int:
        pause = self._pause(item.target)
        if outbox.is_delivered(item):
            outbox.drop(item)
            return 0
        try:
            self._deliver(item.event, target)
        except (Undelivered, UserError) as error:
            if isinstance(error, Undelivered) and error.gone:
                log.warning("notify: %s wants no events any more (410); one is dropped", target.name)
                outbox.drop(item)
                return 0
            pause.failures, pause.reason = pause.failures + 1, str(error)
            wait_s = next_wait_s(pause.failures, getattr(error, "wait_s", None))
            # Jitter keeps many senders from meeting a recovering receiver at the same moment.
            pause.until = self._clock() + wait_s * random.uniform(0.75, 1.0)
            return 0
        outbox.delivered(item)
        self._pauses[item.target] = _Pause()
        return 1
