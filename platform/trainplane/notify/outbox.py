"""Outbox: events that a target has not taken yet.

    pending/TARGET/ID.json   an event, until it is delivered
    sent/TARGET/ID           remembers a delivery, so that the same event is not sent again

It lies in a folder of this machine, or in the context's store, where it survives the node. An event is delivered at
least once; a process that is killed between sending and remembering sends it again, with the same id, by which a
receiver drops it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass

from trainplane.notify.event import Event
from trainplane.storage import NotFound, Store

# So long a repeated event is recognised.
REMEMBER_S = 30 * 86400.0


@dataclass(frozen=True)
class Pending:
    """An event that waits for one target."""

    target: str
    event: Event


class Outbox:
    """Pending events in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, target: str, event: Event) -> bool:
        """Keeps an event for a target; False if known."""
        if self._store.size(f"sent/{target}/{event.id}") is not None:
            return False
        # An event that is made twice has two times, so the first one stays.
        key = _key(target, event.id)
        return self._store.size(key) is None and self._store.create(key, json.dumps(event.to_json()).encode())

    def pending(self) -> Iterator[Pending]:
        """Reads all pending events, oldest first."""
        items = []
        for entry in self._store.list("pending/"):
            _, target, _ = entry.key.split("/", 2)
            try:
                items.append(Pending(target, Event.from_json(json.loads(self._store.read(entry.key)))))
            # Delivered meanwhile; or damaged, which must not stop the others.
            except (NotFound, ValueError, KeyError, TypeError):
                continue
        yield from sorted(items, key=lambda item: (item.event.time, item.event.id))

    def count(self) -> int:
        """Number of pending events."""
        return sum(1 for _ in self._store.list("pending/"))

    def delivered(self, item: Pending) -> None:
        """Remembers a delivery, then forgets the event."""
        # In this order: killed between the two, it is found delivered.
        self._store.write(f"sent/{item.target}/{item.event.id}", f"{time.time():.0f}".encode())
        self.drop(item)

    def is_delivered(self, item: Pending) -> bool:
        """True if a delivery is remembered."""
        return self._store.size(f"sent/{item.target}/{item.event.id}") is not None

    def drop(self, item: Pending) -> None:
        """Forgets a pending event."""
        self._store.delete(_key(item.target, item.event.id))

    def forget_old(self) -> None:
        """Removes memories of deliveries beyond `REMEMBER_S`."""
        for entry in list(self._store.list("sent/")):
            try:
                if time.time() - float(self._store.read(entry.key)) > REMEMBER_S:
                    self._store.delete(entry.key)
            except (NotFound, ValueError):
                continue


def _key(target: str, event_id: str) -> str:
    return f"pending/{target}/{event_id}.json"
