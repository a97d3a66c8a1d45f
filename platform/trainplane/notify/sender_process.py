"""Process that sends events, so that no caller waits.

It takes its orders through standard input, so that no command line shows a secret. It outlives the command that started
it, ends when nothing is pending, and gives up after hours; what is left then is sent after the next event, or by the
command `notify send`. With a store, what was not taken at once moves there, where it survives this machine.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.locks import FileLock
from trainplane.notify.outbox import Outbox
from trainplane.notify.sender import Sender
from trainplane.notify.targets import Target
from trainplane.storage import StorageError, open_store
from trainplane.storage.lease import StoreLease
from trainplane.store_wait import VARIABLE as STORE_WAIT

log = logging.getLogger(__name__)

LIFE_S = 6 * 3600.0
LEASE_KEY = "sender.lease"
_LOOK_EVERY_S = 1.0
_started: list[subprocess.Popen[bytes]] = []
# A sender that is about to end has its lock for a moment only.
_PREDECESSOR_S = 5.0
# Appended, not put first: every module that this interpreter finds without help stays the one it finds.
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from trainplane.notify.sender_process import main; main()"


def start(folder: Path, store: str | None, targets: Mapping[str, Target], *, life_s: float = LIFE_S) -> int:
    """Starts the process in the background; returns its number.

    Args:
        folder: Outbox of this machine.
        store: Address of the outbox in the context's store, if it has one.
        targets: Resolved targets by name.
        life_s: Seconds after which it gives up.
    """
    orders = {
        "folder": str(folder.resolve()),
        "store": store,
        "targets": {name: asdict(target) for name, target in targets.items()},
        "life_s": life_s,
    }
    root = str(Path(__file__).resolve().parents[2])
    # A session of its own: Ctrl-C on a terminal is for the command.
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, root],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
        # A store that is away must not keep it from receivers that are there.
        env={name: value for name, value in os.environ.items() if name != STORE_WAIT},
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(json.dumps(orders).encode())
    # Earlier ones that have ended are taken off the kernel's table.
    _started[:] = [each for each in _started if each.poll() is None]
    _started.append(process)
    return process.pid


def main() -> None:
    """Runs the process: reads its orders, sends, ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Training goes first where processors are scarce.
    os.nice(10)
    orders = json.loads(sys.stdin.buffer.read() or b"{}")
    if not orders:
        return
    folder = Path(orders["folder"])
    folder.mkdir(parents=True, exist_ok=True)
    # One process for each set of targets: an older one may have an older secret.
    digest = hashlib.sha256(canonical_json(orders["targets"])).hexdigest()[:8]
    with FileLock(folder / f"sender-{digest}.lock").attempt(wait_s=_PREDECESSOR_S) as is_ours:
        if is_ours:
            targets = {
                name: Target(**{**fields, "events": tuple(fields["events"])})
                for name, fields in orders["targets"].items()
            }
            send_until_empty(folder, orders["store"], targets, until_s=time.monotonic() + orders["life_s"])


def send_until_empty(folder: Path, store: str | None, targets: Mapping[str, Target], *, until_s: float) -> Sender:
    """Sends what is pending for these targets; returns the sender.

    Args:
        folder: Outbox of this machine.
        store: Address of the outbox in the context's store; what fails moves there.
        targets: Resolved targets by name.
        until_s: Moment by the monotonic clock at which it gives up.
    """
    outbox = Outbox(open_store(str(folder)))
    sender = Sender(targets, folder)
    shared = Outbox(open_store(store)) if store else None
    lease = StoreLease(open_store(store), LEASE_KEY) if store else None
    outbox.forget_old()
    try:
        while True:
            sender.send_due(outbox)
            left = _pending(outbox, targets)
            if shared is not None and lease is not None:
                left = _send_shared(sender, outbox, shared, lease, targets)
            now = time.monotonic()
            if not left or now >= until_s:
                return sender
            time.sleep(max(0.05, min(until_s - now, max(_LOOK_EVERY_S, sender.wait_s()), _longest(lease))))
    finally:
        if lease is not None:
            with suppress(StorageError, UserError):
                lease.release()


def _longest(lease: StoreLease | None) -> float:
    # New events of other commands come meanwhile, and a lease has to be renewed.
    return min(5.0, lease.renew_every_s) if lease is not None else 5.0


def _pending(outbox: Outbox, targets: Mapping[str, Target]) -> int:
    return sum(item.target in targets for item in outbox.pending())


def _send_shared(
    sender: Sender, outbox: Outbox, shared: Outbox, lease: StoreLease, targets: Mapping[str, Target]
) -> int:
    """Moves failed events into the store; sends those there.

    Returns the number of events left. A store that is away changes nothing: they stay on this machine.
    """
    with suppress(StorageError, UserError):
        for item in outbox.pending():
            if item.target in sender.failing():
                shared.add(item.target, item.event)
                outbox.drop(item)
        if lease.hold():
            sender.send_due(shared)
            return _pending(outbox, targets) + _pending(shared, targets)
        # Another machine sends what is there.
        return _pending(outbox, targets)
    return _pending(outbox, targets)


if __name__ == "__main__":
    main()
