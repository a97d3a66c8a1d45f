"""PostgreSQL for MLflow's tables.

On loopback with passwords, without a Unix socket, never as root.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainplane.cluster.ports import HOST
from trainplane.cluster.stack.layout import Component
from trainplane.cluster.stack.supervisor import Launch, as_user
from trainplane.errors import RunFailed

# Created by Debian's package; PostgreSQL refuses to run as root.
_ROOTS_USER = "postgres"


class Postgres(Component):
    """The database `mlflow`, owned by the role `mlflow`."""

    name = "postgres"
    ports = ("postgres",)
    processes = ("postgres",)
    # Fast shutdown: sessions are ended, the files stay consistent.
    stop_signal = signal.SIGINT

    @classmethod
    def install_command(cls) -> str | None:
        """Names what is missing first: server, client library, user."""
        if find_programs() is None:
            return "apt-get install -y --no-install-recommends postgresql"
        if find_spec("psycopg2") is None:
            return "pip install psycopg2-binary"
        if os.getuid() == 0 and not _has_user(_ROOTS_USER):
            return f"useradd --system {_ROOTS_USER}    (PostgreSQL does not run as root)"
        return None

    @property
    def folder(self) -> Path:
        """Data folder; in /var/lib if its user cannot reach ours."""
        inside = self.layout.data("postgres")
        # Another user needs the right to enter every folder above.
        if os.getuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in inside.parents if parent.exists()):
            return inside
        return Path("/var/lib") / f"isnet-stack-{self.layout.mark[:8]}"

    def start(self, launch: Callable[[Launch], None]) -> None:
        """Starts the server, and creates its databases if missing."""
        folder, user = self.folder, server_user()
        if not (folder / "PG_VERSION").exists():
            self._init(folder, user)
        # Left by a killed server. The stack starts this one only if the recorded process does not run.
        (folder / "postmaster.pid").unlink(missing_ok=True)
        command = [str(_program("postgres")), "-D", str(folder), "-p", str(self.port["postgres"])]
        for setting in (f"listen_addresses={HOST}", "unix_socket_directories=", "max_connections=50"):
            command += ["-c", setting]
        launch(Launch("postgres", command, {}, folder, user))

    def _init(self, folder: Path, user: str | None) -> None:
        # Creates databases in `folder`, completely or not at all. It is made beside the folder and renamed, because
        # PG_VERSION is among the first files that initdb writes.
        draft = folder.with_name(f"{folder.name}.making")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        # A file, because a command line is readable by all users.
        password = draft / "password"
        password.touch(mode=0o600)
        password.write_text(self.layout.secret("POSTGRES_PASSWORD") + "\n", encoding="utf-8")
        if user:
            shutil.chown(draft, user)
            shutil.chown(password, user)
        command = [str(_program("initdb")), "-D", str(draft / "cluster"), "-U", "postgres", "--pwfile", str(password)]
        command += ["--auth-local=reject", "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run(command, cwd=draft, capture_output=True, text=True, check=False, **as_user(user))
        password.unlink()
        if done.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise RunFailed(f"postgres: initdb failed: {(done.stderr or done.stdout).strip()[-500:]}")
        (draft / "cluster").rename(folder)
        draft.rmdir()

    def health_addresses(self) -> Sequence[str]:
        """A connection is an answer."""
        return (f"tcp://{HOST}:{self.port['postgres']}",)

    def initialize(self) -> None:
        """Creates role and database; the password reaches the server hashed."""
        from psycopg2.extensions import encrypt_password

        password, connection = self.layout.secret("PGPASSWORD"), self._connect()
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                hashed = encrypt_password(password, "mlflow", connection, "scram-sha-256")
                # An existing role gets the present password: its file may have been replaced.
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'mlflow'")
                cursor.execute(f"{'ALTER' if cursor.fetchone() else 'CREATE'} ROLE mlflow LOGIN PASSWORD %s", (hashed,))
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'mlflow'")
                if not cursor.fetchone():
                    cursor.execute("CREATE DATABASE mlflow OWNER mlflow")
        finally:
            connection.close()

    def _connect(self, timeout_s: float = 60.0) -> Any:
        # Connects as superuser. The server accepts connections a moment before it answers them, and longer before after
        # a crash.
        import psycopg2

        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return psycopg2.connect(
                    host=HOST,
                    port=self.port["postgres"],
                    user="postgres",
                    dbname="postgres",
                    password=self.layout.secret("POSTGRES_PASSWORD"),
                    connect_timeout=20,
                )
            except psycopg2.OperationalError as error:
                if "starting up" not in str(error) or time.monotonic() > deadline:
                    raise RunFailed(f"postgres: the superuser cannot log in: {str(error).strip()}") from error
                time.sleep(0.1)


def server_user() -> str | None:
    """User that PostgreSQL runs as; None for ours."""
    return _ROOTS_USER if os.getuid() == 0 else None


def find_programs() -> Path | None:
    """Finds the folder with postgres and initdb, newest version first."""
    # Debian keeps them off the path.
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name or 0))
    on_path = [Path(program).resolve().parent for name in ("initdb", "postgres") if (program := shutil.which(name))]
    for folder in (*reversed(versions), *on_path):
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    return None


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _program(name: str) -> Path:
    folder = find_programs()
    assert folder is not None
    return folder / name
