"""The process that sends a spool to MLflow while a run trains.

A process of its own, because a thread that packs requests holds the interpreter for milliseconds at a time, and those
are the milliseconds for which a training step would wait to record something. It shares nothing with the training but
files: `drain` does the sending, under the spool's lock. Its orders come through its standard input, so that no command
line shows an address with a password. Whatever becomes of it, the records stay on the disk.

While the server is away it tries ever less often. When its parent ends without a word it still sends what is there,
for some seconds at most; the next attempt or `isnet runs sync` sends the rest.
"""

from __future__ import annotations

import json
import logging
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from trainplane.tracking.client import TrackingServer, reason
from trainplane.tracking.spool.upload import BUSY, Drained, count_unsent, drain

logger = logging.getLogger(__name__)

_ORPHAN_S = 10.0
_BUSY_WAIT_S = 0.2
_LOOK_EVERY_S = 1.0
_REPLACE_AFTER_S = 1.0
# Appended, not put first: what this interpreter finds without help stays what it finds.
_PROGRAM = (
    "import sys; sys.path.append(sys.argv[1]); from trainplane.tracking.spool.uploader_process import main; main()"
)


class Flusher:
    """Starts the process and ends it. Starting takes milliseconds; the process itself is ready seconds later."""

    def __init__(self, folder: Path, tracking_uri: str, *, every_s: float = 2.0, longest_wait_s: float = 30.0) -> None:
        self._folder = folder
        self._orders = {
            "parent": os.getpid(),
            "folder": str(folder.resolve()),
            "tracking": tracking_uri,
            "every_s": every_s,
            "longest_wait_s": longest_wait_s,
        }
        self._closing = threading.Event()
        self._process = self._start()
        self._watching = threading.Thread(target=self._replace_the_dead, name="flusher-watch", daemon=True)
        self._watching.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self, timeout_s: float) -> int:
        """Send what is left for at most `timeout_s` seconds; returns the records that stay on the disk."""
        self._closing.set()
        self._watching.join()
        if timeout_s > 0 and self._process.poll() is not None:
            self._process = self._start()
        self._tell({"close_s": timeout_s})
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # Nothing is lost or doubled by it: what was not acknowledged is sent again, which changes nothing.
            self._process.kill()
            self._process.wait()
        self._release()
        return count_unsent(self._folder)

    def _replace_the_dead(self) -> None:
        """Start another one where it was killed, for want of memory perhaps; ever less often where that goes on."""
        wait_s = _REPLACE_AFTER_S
        while not self._closing.wait(_LOOK_EVERY_S):
            if self._process.poll() is None:
                continue
            logger.warning("tracking: the sending process ended (%s), another one follows", self._process.returncode)
            if self._closing.wait(wait_s):
                return
            wait_s = min(60.0, 2 * wait_s)
            self._release()
            try:
                self._process = self._start()
            except OSError as error:
                logger.warning("tracking: no process can be started, records stay in %s (%s)", self._folder, error)

    def _release(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        # A session of its own: Ctrl-C on a terminal is for the training, which then says what is to be done.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        self._tell(self._orders)
        return self._process

    def _tell(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            logger.warning("tracking: the sending process has ended; records stay in %s", self._folder)


class _Orders(threading.Thread):
    """Listens to the parent, and ends this process when its time is over, even in the middle of a request."""

    def __init__(self, parent: int) -> None:
        super().__init__(name="orders", daemon=True)
        self._parent = parent
        self.deadline = float("inf")
        self.closing = threading.Event()

    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def run(self) -> None:
        seconds = self._seconds_left()
        self.deadline = time.monotonic() + seconds
        self.closing.set()
        time.sleep(max(0.0, self.deadline - time.monotonic()))
        os._exit(0)

    def _seconds_left(self) -> float:
        """Waits for the end: the parent's word for it, or its death."""
        while True:
            # The pipe alone does not tell: a child that the parent forked may hold its other end.
            if select.select([0], [], [], 1.0)[0]:
                line = _read_line()
                return float(json.loads(line)["close_s"]) if line else _ORPHAN_S
            if os.getppid() != self._parent:
                return _ORPHAN_S


def _read_line() -> bytes:
    """One line of standard input, unbuffered, without its end; empty when the other side is gone."""
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line if byte else b""


def main() -> None:
    """What the process does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # Training goes first where processors are scarce.
    os.nice(10)
    line = _read_line()
    if not line:
        return
    given = json.loads(line)
    orders = _Orders(given["parent"])
    orders.start()
    flush(given["folder"], TrackingServer(given["tracking"]), orders, given["every_s"], given["longest_wait_s"])


def flush(folder: str, server: TrackingServer, orders: _Orders, every_s: float, longest_wait_s: float) -> None:
    """Drain every `every_s` seconds until told to close, and once more then."""
    wait_s = every_s
    # Not before the first wait: importing MLflow takes seconds of a processor, just when training begins.
    closing = False
    while not closing:
        closing = orders.closing.wait(wait_s)
        try:
            client = server.client
        # A database that is locked or damaged is one that does not answer: the records stay and are tried again.
        except Exception as error:
            drained = Drained(unsent=count_unsent(Path(folder)), error=reason(error))
        else:
            drained = drain(Path(folder), client, stop=orders.is_over, rest=closing)
        while closing and drained.error == BUSY and not orders.is_over():
            time.sleep(_BUSY_WAIT_S)
            drained = drain(Path(folder), client, stop=orders.is_over)
        if drained.error is None:
            wait_s = every_s
        elif drained.error == BUSY:
            # The last attempt's process is still at it; it will have ended within seconds.
            wait_s = max(every_s, _BUSY_WAIT_S)
        else:
            if wait_s == every_s:
                logger.warning("tracking: %d records wait on disk (%s)", drained.unsent, drained.error)
            # Full jitter keeps many runs from meeting a recovering server at the same moment.
            wait_s = min(longest_wait_s, 2 * max(wait_s, 0.05)) * random.uniform(0.75, 1.0)
