"""An S3 server on loopback for demos and tests: moto's, in a process of its own that dies with this one.

Its objects live in memory and it asks for no password: a stand-in for people who have no bucket at hand, not a place
to keep anything. Real stores are reached through the context's `s3_endpoint`.
"""

from __future__ import annotations

import ctypes
import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainplane.errors import RunFailed, UserError

_PR_SET_PDEATHSIG = 1


@contextmanager
def local_s3(*, port: int = 0, log: Path | None = None, timeout_s: float = 60.0) -> Iterator[dict[str, str]]:
    """Run the server on 127.0.0.1 and yield the environment variables that lead to it.

    `port` 0 takes a free one. Raises `UserError` where the port is taken or the server is not installed.
    """
    port = claim_port(port)
    output = open(log, "ab") if log else subprocess.DEVNULL  # noqa: SIM115 - closed below, after the child has it
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # A group of its own, so that Ctrl-C reaches it through us and not before us.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    finally:
        if log:
            output.close()  # type: ignore[union-attr]
    try:
        _wait_until_up(process, port, timeout_s)
        yield {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def claim_port(port: int) -> int:
    """A port nobody listens on: the wished one, or a free one."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port {port} on 127.0.0.1 cannot be used ({error.strerror}); choose another with --port"
            ) from error
        return int(probe.getsockname()[1])


def die_with_parent() -> None:
    """For `preexec_fn`: have the kernel end the child when this process dies, however it dies (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(
                "the local S3 server did not start; install the demo's packages: pip install 'isnet-platform[demo]'"
            )
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status < 500:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise RunFailed(f"the local S3 server (pid {process.pid}) did not answer on port {port} within {timeout_s:.0f} s")
