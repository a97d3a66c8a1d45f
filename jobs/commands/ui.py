"""`isnet ui`: MLflow's pages of the records here."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from jobs.cli.main import emit
from trainplane.cluster.context import Context
from trainplane.cluster.ports import check_port
from trainplane.cluster.stack.moto_server import die_with_parent
from trainplane.errors import RunFailed, error_line
from trainplane.tracking import pages

START_S = 120.0
# The server's job runners are for language models, and take a gigabyte of memory.
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Of packages that MLflow uses; nobody who looks at pages can do anything about them.
    "PYTHONWARNINGS": "ignore",
}


def ui(args: argparse.Namespace, context: Context) -> int:
    """Serves MLflow's pages on loopback until interrupted."""
    # A server has its own pages.
    if context.tracking.startswith("http"):
        address = context.tracking_server.public_address
        page = pages.first_page(context.tracking_server, address)
        emit(args, {"address": address, "pages": page}, f"the pages of context {context.name!r}: {page}")
        return 0
    # With --port 0 a free port is chosen here, so that the address can be printed.
    port = check_port(args.port)
    address = f"http://127.0.0.1:{port}"
    # Makes the database where there is none yet.
    page = pages.first_page(context.tracking_server, address)
    log = context.home / "logs" / "ui.log"
    with _server(_command(context, port), log) as server:
        try:
            _wait_until_up(server, address, log)
            emit(args, {"address": address, "pages": page, "log": str(log)}, f"{page} (Ctrl-C ends it)")
            status = server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
    raise RunFailed(f"MLflow's server ended with status {status} ({_last_line(log)}); all of its log: {log}")


def _command(context: Context, port: int) -> list[str]:
    stores = ["--backend-store-uri", context.tracking, "--registry-store-uri", context.tracking]
    return [
        *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *(*stores, "--default-artifact-root", context.artifacts),
        *("--uvicorn-opts", "--log-level warning --no-access-log"),
    ]


def _server(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C at the terminal reaches this process alone, which then ends the server.
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as stream:
        return subprocess.Popen(
            command,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def _wait_until_up(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RunFailed(f"MLflow's server did not start ({_last_line(log)}); all of its log: {log}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RunFailed(f"MLflow's server does not answer at {address} after {START_S:.0f} s; its log: {log}")


def _last_line(log: Path) -> str:
    return error_line(log.read_text(encoding="utf-8", errors="replace"), last=True)
