"""`isnet notify test|list|send`: targets of events, and pending ones."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from jobs.cli.format import duration
from jobs.cli.main import emit
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError, nearest
from trainplane.notify.event import Event
from trainplane.notify.notifier import Notifier
from trainplane.notify.outbox import Outbox
from trainplane.notify.sender import send as deliver
from trainplane.notify.sender_process import send_until_empty
from trainplane.notify.targets import Target
from trainplane.notify.webhook import Undelivered
from trainplane.storage import open_store
from trainplane.tracking.lineage import account


def test(args: argparse.Namespace, context: Context) -> int:
    """Sends one event to each target, and reports the answers."""
    targets = _chosen(context, args.target_name)
    # All secrets first: a missing one is a mistake, and nothing was sent.
    resolved = [target.resolved() for target in targets]
    event = Event.of(
        "test",
        f"{context.name}: a test of notifications",
        f"sent by {account()} with `{command_line('notify', 'test')}`",
        once=(os.getpid(), time.time_ns()),
        context=context.name,
    )
    results = {}
    for target in resolved:
        started = time.monotonic()
        try:
            deliver(event, target)
        except Undelivered as error:
            results[target.name] = {"delivered": False, "reason": str(error)}
        else:
            results[target.name] = {"delivered": True, "seconds": round(time.monotonic() - started, 3)}
    lines = [
        f"{name:<16} took it in {result['seconds']:.2f} s"
        if result["delivered"]
        else f"{name:<16} DID NOT TAKE IT: {result['reason']}"
        for name, result in results.items()
    ]
    emit(args, {"event": event.id, "targets": results}, "\n".join(lines))
    return 0 if all(result["delivered"] for result in results.values()) else 1


def list_pending(args: argparse.Namespace, context: Context) -> int:
    """Lists targets, and events that wait for them."""
    notifier = Notifier(context)
    waiting = [
        {"target": item.target, "kind": item.event.kind, "time": item.event.time, "title": item.event.title}
        for outbox in _outboxes(notifier)
        for item in outbox.pending()
    ]
    targets = [_described(target) for target in context.notify]
    lines = [f"{entry['name']:<16} {entry['by']:<8} {', '.join(entry['events'])}" for entry in targets]
    lines += [
        f"{item['time'][:19]}  waits for {item['target']:<16} {item['kind']:<16} {item['title']}" for item in waiting
    ]
    if not targets:
        lines.append(
            f"nobody is told about events; name a target in [context.{context.name}.notify.NAME] of isnet.toml"
        )
    emit(args, {"targets": targets, "waiting": waiting}, "\n".join(lines))
    return 0


def send(args: argparse.Namespace, context: Context) -> int:
    """Sends the events that wait, for at most `--wait` seconds."""
    notifier = Notifier(context)
    targets = {target.name: target.resolved() for target in _chosen(context, None)}
    notifier.folder.mkdir(parents=True, exist_ok=True)
    before = sum(outbox.count() for outbox in _outboxes(notifier))
    sender = send_until_empty(notifier.folder, notifier.store, targets, until_s=time.monotonic() + args.wait)
    left = sum(outbox.count() for outbox in _outboxes(notifier))
    failing = sender.failing()
    text = f"{before - left} of {before} events sent"
    if left:
        text += f"; {left} wait, tried for {duration(args.wait)}: " + "; ".join(
            f"{name}: {reason}" for name, reason in failing.items()
        )
    emit(args, {"sent": before - left, "left": left, "failing": failing}, text)
    return 1 if left else 0


def _chosen(context: Context, name: str | None) -> list[Target]:
    targets = {target.name: target for target in context.notify}
    if not targets:
        raise UserError(
            f"context {context.name!r} names nobody to tell; add [context.{context.name}.notify.NAME] to isnet.toml, "
            'with webhook = "https://…" and secret = "env:NAME", or apprise = "env:NAME"'
        )
    if name is None:
        return list(targets.values())
    if name not in targets:
        raise UserError(f"{name!r} is no target of context {context.name!r}{nearest(name, targets)}")
    return [targets[name]]


def _outboxes(notifier: Notifier) -> list[Outbox]:
    addresses = [str(notifier.folder), *([notifier.store] if notifier.store else [])]
    return [Outbox(open_store(address)) for address in addresses]


def _described(target: Target) -> dict[str, Any]:
    return {"name": target.name, "by": "webhook" if target.webhook else "apprise", "events": list(target.events)}
