"""S3 server for demos and tests: moto on loopback.

Objects live in memory, without a password; real stores use the context's `s3_endpoint`. It ends with this process.
"""

from __future__ import annotations

import ctypes
import http.client
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainplane.cluster.ports import HOST, check_port
from trainplane.cluster.stack.object_store import REGION, moto_command
from trainplane.errors import RunFailed, UserError

_PR_SET_PDEATHSIG = 1


@contextmanager
def local_s3(*, port: int = 0, log: Path | None = None, timeout_s: float = 60.0) -> Iterator[dict[str, str]]:
    """Runs the server during the block; yields clients' environment variables.

    `port` 0 chooses a free one. Raises `UserError` if it is taken or moto is missing, `RunFailed` without a timely
    answer.
    """
    port = check_port(port)
    output = open(log, "ab") if log else subprocess.DEVNULL  # noqa: SIM115 - closed below, after the child has it
    try:
        process = subprocess.Popen(
            moto_command(port),
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
            "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_DEFAULT_REGION": REGION,
        }
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def die_with_parent() -> None:
    """Asks the kernel to end this process with its parent.

    For `preexec_fn`; works however the parent dies (Linux).
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def _wait_until_up(process: subprocess.Popen[bytes], port: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(
                "the local S3 server did not start; install the demo's packages: pip install 'isnet-platform[demo]'"
            )
        connection = http.client.HTTPConnection(HOST, port, timeout=2)
        try:
            connection.request("GET", "/")
            if connection.getresponse().status < 500:
                return
        except OSError:
            time.sleep(0.1)
        finally:
            connection.close()
    raise RunFailed(f"the local S3 server (pid {process.pid}) did not answer on port {port} within {timeout_s:.0f} s")
