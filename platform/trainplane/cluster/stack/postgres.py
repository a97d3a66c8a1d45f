"""PostgreSQL for MLflow's tables: on loopback, with passwords, no Unix socket, never as root."""

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

from trainplane.cluster.stack.layout import HOST, Part
from trainplane.cluster.stack.supervisor import Launch
from trainplane.errors import RunFailed

# Made by Debian's package; PostgreSQL refuses to run as root.
ROOTS_USER = "postgres"


class Postgres(Part):
    """The database `mlflow`, owned by the role `mlflow`."""

    name = "postgres"
    ports = ("postgres",)
    processes = ("postgres",)
    # Fast shutdown: sessions are ended, the files are left in order.
    stop_signal = signal.SIGINT

    @classmethod
    def missing(cls) -> str | None:
        if _binaries() is None:
            return "apt-get install -y --no-install-recommends postgresql"
        if find_spec("psycopg2") is None:
            return "pip install psycopg2-binary"
        if os.getuid() == 0 and not _has_user(ROOTS_USER):
            return f"useradd --system {ROOTS_USER}    (PostgreSQL does not run as root)"
        return None

    @property
    def folder(self) -> Path:
        """Its data; where its own user could not reach ours, a folder of the machine."""
        inside = self.site.data("postgres")
        if os.getuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in inside.parents if parent.exists()):
            return inside
        return Path("/var/lib") / f"isnet-stack-{self.site.mark[:8]}"

    def start(self, launch: Callable[[Launch], None]) -> None:
        folder, user = self.folder, _user()
        if not (folder / "PG_VERSION").exists():
            self._init(folder, user)
        # What a killed server left; only the record tells whether it still runs, and that was asked.
        (folder / "postmaster.pid").unlink(missing_ok=True)
        command = [str(_tool("postgres")), "-D", str(folder), "-p", str(self.port["postgres"])]
        for setting in (f"listen_addresses={HOST}", "unix_socket_directories=", "max_connections=50"):
            command += ["-c", setting]
        launch(Launch("postgres", command, {}, folder, user))

    def _init(self, folder: Path, user: str | None) -> None:
        """A cluster in `folder`, whole or not at all: PG_VERSION is among the first files that initdb writes."""
        draft = folder.with_name(f"{folder.name}.making")
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        draft.mkdir(mode=0o700, parents=True)
        word = draft / "password"
        word.touch(mode=0o600)
        word.write_text(self.site.secret("POSTGRES_PASSWORD") + "\n", encoding="utf-8")
        if user:
            shutil.chown(draft, user)
            shutil.chown(word, user)
        command = [str(_tool("initdb")), "-D", str(draft / "cluster"), "-U", "postgres", "--pwfile", str(word)]
        command += ["--auth-local=reject", "--auth-host=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run(
            command,
            cwd=draft,
            capture_output=True,
            text=True,
            check=False,
            **({"user": user, "extra_groups": []} if user else {}),  # type: ignore[call-overload]
        )
        word.unlink()
        if done.returncode != 0:
            shutil.rmtree(draft, ignore_errors=True)
            raise RunFailed(f"postgres: initdb failed: {(done.stderr or done.stdout).strip()[-500:]}")
        (draft / "cluster").rename(folder)
        draft.rmdir()

    def checks(self) -> Sequence[str]:
        return (f"tcp://{HOST}:{self.port['postgres']}",)

    def settle(self) -> None:
        """The role and the database, made once; their password reaches the server as a hash."""
        from psycopg2.extensions import encrypt_password

        password, connection = self.site.secret("PGPASSWORD"), self._connect()
        connection.autocommit = True
        try:
            with connection.cursor() as cursor:
                hashed = encrypt_password(password, "mlflow", connection, "scram-sha-256")
                cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = 'mlflow'")
                cursor.execute(f"{'ALTER' if cursor.fetchone() else 'CREATE'} ROLE mlflow LOGIN PASSWORD %s", (hashed,))
                cursor.execute("SELECT 1 FROM pg_database WHERE datname = 'mlflow'")
                if not cursor.fetchone():
                    cursor.execute("CREATE DATABASE mlflow OWNER mlflow")
        finally:
            connection.close()

    def _connect(self, timeout_s: float = 60.0) -> Any:
        """As its superuser; it takes connections a moment before it answers them, longer after a crash."""
        import psycopg2

        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return psycopg2.connect(
                    host=HOST,
                    port=self.port["postgres"],
                    user="postgres",
                    dbname="postgres",
                    password=self.site.secret("POSTGRES_PASSWORD"),
                    connect_timeout=20,
                )
            except psycopg2.OperationalError as error:
                if "starting up" not in str(error) or time.monotonic() > deadline:
                    raise RunFailed(f"postgres: it does not let us in: {str(error).strip()}") from error
                time.sleep(0.1)


def _user() -> str | None:
    return ROOTS_USER if os.getuid() == 0 else None


def _has_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _binaries() -> Path | None:
    """The folder with postgres and initdb: Debian keeps them off the path, newest version last."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name or 0))
    on_path = [Path(found).resolve().parent for name in ("initdb", "postgres") if (found := shutil.which(name))]
    for folder in (*reversed(versions), *on_path):
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    return None


def _tool(name: str) -> Path:
    folder = _binaries()
    assert folder is not None
    return folder / name
