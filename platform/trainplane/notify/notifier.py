"""Tells a context's targets about events; never fails a caller.

An event is on the disk when `tell` returns; a process of its own sends it.
"""

from __future__ import annotations

import logging
from pathlib import Path

from trainplane.cluster.context import Context
from trainplane.errors import RunFailed, UserError
from trainplane.notify import sender_process
from trainplane.notify.event import Event
from trainplane.notify.outbox import Outbox
from trainplane.notify.targets import Target, wanted_by
from trainplane.storage import open_store

log = logging.getLogger(__name__)

FOLDER = "notify"


class Notifier:
    """Outboxes and targets of one context."""

    def __init__(self, context: Context) -> None:
        self._targets = context.notify
        self.folder: Path = context.home / FOLDER
        # A store on this machine survives no more than the folder does.
        is_remote = context.store is not None and context.store.startswith("s3://")
        self.store = f"{context.store}/{FOLDER}" if is_remote else None

    def tell(self, event: Event) -> list[str]:
        """Keeps an event and starts its sending; returns the targets.

        A failure is logged: a run does not fail because a message does.
        """
        names = wanted_by(event.kind, self._targets)
        if not names:
            return []
        try:
            outbox = Outbox(open_store(str(self.folder)))
            new_names = [name for name in names if outbox.add(name, event)]
            if new_names:
                self.start_sending()
            return new_names
        except (OSError, RunFailed, UserError) as error:
            log.warning("notify: the event %s is not sent (%s)", event.kind, error)
            return []

    def start_sending(self) -> None:
        """Starts the process that sends what is pending."""
        if targets := self.usable_targets():
            sender_process.start(self.folder, self.store, targets)

    def usable_targets(self) -> dict[str, Target]:
        """Targets with their secrets; without those that have none here."""
        usable = {}
        for target in self._targets:
            try:
                usable[target.name] = target.resolved()
            # A node may lack a secret; its events wait for a machine that has it.
            except UserError as error:
                log.warning("notify: events for %s wait (%s)", target.name, error)
        return usable
