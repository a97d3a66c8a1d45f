"""A PostgreSQL of a test's own, on loopback; it does not run as root, so as root it runs as its package's user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from trainplane.cluster.ports import free_port

USER = "postgres"


def missing() -> str | None:
    """Why there can be none here."""
    if _tools() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if find_spec("psycopg2") is None:
        return "the driver is not installed (pip install psycopg2-binary)"
    if os.getuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        return f"it does not run as root, and there is no user {USER!r}"
    return None


@contextmanager
def postgres(password: str) -> Iterator[str]:
    """The address of a database, `postgresql+psycopg2://…`, with the password in it."""
    tools = _tools()
    assert tools is not None
    # Not below the test's own folder, which its user may not enter.
    with tempfile.TemporaryDirectory(prefix="pg-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        word = folder / "word"
        word.write_text(password)
        user = USER if os.getuid() == 0 else None
        if user:
            for path in (folder, word):
                shutil.chown(path, user)
        demoted = {"user": user, "extra_groups": []} if user else {}
        data, port = str(folder / "data"), free_port()
        made = [f"{tools}/initdb", "-D", data, "-U", USER, "--pwfile", str(word), "--auth=scram-sha-256", "--no-sync"]
        subprocess.run(made, cwd=folder, check=True, capture_output=True, **demoted)
        settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "fsync=off")
        command = [f"{tools}/postgres", "-D", data, "-p", str(port), *(w for s in settings for w in ("-c", s))]
        server = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **demoted)
        try:
            _wait_for(port, server)
            yield f"postgresql+psycopg2://{USER}:{password}@127.0.0.1:{port}/{USER}"
        finally:
            # Ends sessions instead of waiting for them.
            server.send_signal(signal.SIGINT)
            server.wait(60)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert server.poll() is None, "PostgreSQL ended while it was starting"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.1)


def _tools() -> Path | None:
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    on_path = shutil.which("initdb")
    return max(found, key=lambda path: float(path.parent.name)) if found else (on_path and Path(on_path).parent) or None
