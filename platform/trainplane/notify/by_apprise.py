"""Sends events to Slack, Teams, mail and others, by apprise."""

from __future__ import annotations

import logging

from trainplane.errors import UserError
from trainplane.notify.event import Event
from trainplane.notify.targets import Target
from trainplane.notify.webhook import Undelivered


def send(event: Event, target: Target) -> None:
    """Sends one event; `target` has its address resolved.

    Raises:
        Undelivered: The service did not take it.
        UserError: apprise is not installed, or does not know the address.
    """
    try:
        import apprise
    except ImportError:
        raise UserError(
            f"notify.{target.name} needs apprise, which is not installed; install it: "
            "pip install 'isnet-platform[notify]'"
        ) from None
    # It logs addresses, which hold tokens.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    sender = apprise.Apprise()
    if not sender.add(target.apprise):
        raise UserError(
            f"notify.{target.name}: apprise does not know this kind of address; need one of its forms, such as "
            "slack://TOKEN_A/TOKEN_B/TOKEN_C/#CHANNEL"
        )
    kinds = apprise.NotifyType
    kind = {"success": kinds.SUCCESS, "warning": kinds.WARNING, "failure": kinds.FAILURE}.get(
        event.severity, kinds.INFO
    )
    if not sender.notify(title=event.title, body=event.text, notify_type=kind):
        raise Undelivered(f"{target.apprise.partition(':')[0]} did not take it")
