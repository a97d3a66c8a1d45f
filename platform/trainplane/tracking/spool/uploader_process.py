"""Process that uploads a spool while a run trains.

A thread that packs requests would hold the interpreter for milliseconds, and a training step would wait that long. The
two share only files: `upload` sends under the spool's lock. Orders come through standard input, so that no command line
shows a password. While the server is unreachable it tries less and less often. When its parent dies it sends for some
seconds at most; the next attempt or `isnet runs sync` sends what is left on the disk.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainplane.tracking.client import TrackingServer, reason
from trainplane.tracking.spool.upload import BUSY, UploadResult, count_unsent, upload

logger = logging.getLogger(__name__)

_ORPHAN_S = 10.0
_BUSY_WAIT_S = 0.2
_CHECK_EVERY_S = 1.0
_RESTART_AFTER_S = 1.0
_LONGEST_RESTART_S = 60.0
# Appended, not put first: every module that this interpreter finds without help stays the one it finds.
_START = "import importlib, sys; sys.path.append(sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
# Module whose `main` is the process for a run's records.
RUN_PROGRAM = "trainplane.tracking.spool.uploader_process"
UploadOnce = Callable[[Path, Any, Callable[[], bool], bool], UploadResult]
"""Uploads a folder once: folder, client, what ends it, True for the last time."""


class Uploader:
    """Starts, restarts and ends the process.

    Starting takes milliseconds; the process itself is ready seconds later.
    """

    def __init__(
        self,
        folder: Path,
        tracking_uri: str,
        *,
        every_s: float = 2.0,
        longest_wait_s: float = 30.0,
        program: str = RUN_PROGRAM,
    ) -> None:
        """Starts the process.

        It uploads every `every_s` seconds, and at least every `longest_wait_s` while the server is unreachable.
        `tracking_uri` has the server's password; `program` is the module whose `main` the process runs.
        """
        self._folder = folder
        self._program = program
        self._orders = {
            "parent": os.getpid(),
            "folder": str(folder.resolve()),
            "tracking": tracking_uri,
            "every_s": every_s,
            "longest_wait_s": longest_wait_s,
        }
        self._closing = threading.Event()
        self._process = self._start()
        self._monitor = threading.Thread(target=self._restart_when_dead, name="uploader-monitor", daemon=True)
        self._monitor.start()

    @property
    def pid(self) -> int:
        """Number of the current process."""
        return self._process.pid

    def close(self, timeout_s: float) -> int:
        """Sends for at most `timeout_s` seconds; returns the records left."""
        self._closing.set()
        self._monitor.join()
        if timeout_s > 0 and self._process.poll() is not None:
            self._process = self._start()
        self._send_order({"close_s": timeout_s})
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            # Nothing is lost or doubled by it: unacknowledged records are sent again, which changes nothing.
            self._process.kill()
            self._process.wait()
        self._close_pipe()
        return count_unsent(self._folder)

    def _restart_when_dead(self) -> None:
        """Restarts a process that was killed, perhaps without memory."""
        wait_s = _RESTART_AFTER_S
        while not self._closing.wait(_CHECK_EVERY_S):
            if self._process.poll() is None:
                continue
            logger.warning("tracking: the uploader ended (%s) and is started again", self._process.returncode)
            if self._closing.wait(wait_s):
                return
            # Less and less often, if it repeats.
            wait_s = min(_LONGEST_RESTART_S, 2 * wait_s)
            self._close_pipe()
            try:
                self._process = self._start()
            except OSError as error:
                logger.warning("tracking: no process can be started, records stay in %s (%s)", self._folder, error)

    def _close_pipe(self) -> None:
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        # A session of its own: Ctrl-C on a terminal is for the training, which then gives the order to close.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, root, self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        self._send_order(self._orders)
        return self._process

    def _send_order(self, order: dict[str, object]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
        except BrokenPipeError:
            logger.warning("tracking: the uploader has ended; records stay in %s", self._folder)


class Orders(threading.Thread):
    """Listens to the parent; ends at its deadline, even mid-request."""

    def __init__(self, parent: int) -> None:
        super().__init__(name="orders", daemon=True)
        self._parent = parent
        self.deadline = float("inf")
        self.closing = threading.Event()

    def is_over(self) -> bool:
        """Checks whether the deadline has passed."""
        return time.monotonic() > self.deadline

    def run(self) -> None:
        """Waits for the end; exits the process at its deadline."""
        seconds = self.wait_for_close()
        self.deadline = time.monotonic() + seconds
        self.closing.set()
        time.sleep(max(0.0, self.deadline - time.monotonic()))
        os._exit(0)

    def wait_for_close(self) -> float:
        """Waits for the end; returns the seconds left to send.

        The end is the order to close, or the parent's death.
        """
        while True:
            # The pipe alone does not show the death: a child that the parent forked may hold its other end.
            if select.select([0], [], [], 1.0)[0]:
                line = _read_line()
                return float(json.loads(line)["close_s"]) if line else _ORPHAN_S
            if os.getppid() != self._parent:
                return _ORPHAN_S


def _read_line() -> bytes:
    """Reads one line of standard input; empty if closed."""
    # Unbuffered, because `select` does not see what Python's buffer holds.
    line = b""
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return line if byte else b""


def main() -> None:
    """Runs the process for a run's records."""
    run_uploader(lambda folder, client, stop, is_last: upload(folder, client, stop=stop, show_pending=is_last))


def run_uploader(upload_once: UploadOnce) -> None:
    """Runs a process: reads its options, uploads until closed.

    `upload_once` gets folder, client, what ends it, and whether the upload is the last one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    # The work that is recorded goes first where processors are scarce.
    os.nice(10)
    line = _read_line()
    if not line:
        return
    options = json.loads(line)
    orders = Orders(options["parent"])
    orders.start()
    upload_until_closed(
        Path(options["folder"]),
        TrackingServer(options["tracking"]),
        orders,
        options["every_s"],
        options["longest_wait_s"],
        upload_once,
    )


def upload_until_closed(
    folder: Path,
    server: TrackingServer,
    orders: Orders,
    every_s: float,
    longest_wait_s: float,
    upload_once: UploadOnce,
) -> None:
    """Uploads every `every_s` seconds, and once more when closed."""
    wait_s = every_s
    closing = False
    while not closing:
        # Wait first: importing MLflow takes seconds of a processor, just when the work begins.
        closing = orders.closing.wait(wait_s)
        try:
            client = server.client
        # A locked or damaged database counts as an unreachable server: the records stay and are tried again.
        except Exception as error:
            result = UploadResult(unsent=count_unsent(folder), error=reason(error))
        else:
            result = upload_once(folder, client, orders.is_over, closing)
        while closing and result.error == BUSY and not orders.is_over():
            time.sleep(_BUSY_WAIT_S)
            result = upload_once(folder, client, orders.is_over, True)
        # Choose the next wait.
        if result.error is None:
            wait_s = every_s
        elif result.error == BUSY:
            # The last attempt's process is still at work; it will end within seconds.
            wait_s = max(every_s, _BUSY_WAIT_S)
        else:
            if wait_s == every_s:
                logger.warning("tracking: %d records wait on disk (%s)", result.unsent, result.error)
            # Jitter keeps many runs from meeting a recovering server at the same moment.
            wait_s = min(longest_wait_s, 2 * max(wait_s, 0.05)) * random.uniform(0.75, 1.0)
