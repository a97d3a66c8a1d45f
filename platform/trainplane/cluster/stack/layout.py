"""Folders, ports, secrets and components of a stack.

ROOT/secrets/NAME   mode 0600, in a folder of mode 0700
ROOT/data/NAME      data of a component
ROOT/logs/NAME.log  output of a process
ROOT/state.json     ports, and processes by number and start
RUN                 a short path outside: addresses of Unix sockets have at most 107 bytes
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from trainplane.cluster.ports import HOST
from trainplane.cluster.stack.supervisor import Launch
from trainplane.errors import UserError
from trainplane.locks import ProcessId


@dataclass
class StackState:
    """State of a stack between commands."""

    store: str | None = None
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, ProcessId] = field(default_factory=dict)


@dataclass(frozen=True)
class StackLayout:
    """Folders of one stack; different roots share nothing."""

    root: Path

    @property
    def mark(self) -> str:
        """Mark of the stack's processes, derived from its root."""
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:16]

    @property
    def run(self) -> Path:
        """Folder of Unix sockets."""
        return Path(tempfile.gettempdir()) / f"isnet-stack-{self.mark[:8]}"

    def data(self, component: str) -> Path:
        """Data folder of a component."""
        return self.root / "data" / component

    def log(self, process: str) -> Path:
        """Log file of a process."""
        return self.root / "logs" / f"{process}.log"

    def make(self) -> None:
        """Creates the common folders; `UserError` if another user owns one."""
        for folder in (self.root, self.root / "logs", self.root / "data"):
            folder.mkdir(parents=True, exist_ok=True)
        for private in (self.root / "secrets", self.run):
            private.mkdir(mode=0o700, exist_ok=True)
            # In a folder that all users may write to, another user could have created it first.
            if private.is_symlink() or private.stat().st_uid != os.getuid():
                raise UserError(f"{private} belongs to another user; remove it, or set TMPDIR to a folder of yours")
            private.chmod(0o700)

    def secret(self, name: str, make: Callable[[], str] | None = None) -> str:
        """Secret, made at first use, by default 48 hexadecimal digits."""
        file = self.root / "secrets" / name
        # An empty secret would protect nothing.
        if not file.exists() or not file.read_text(encoding="utf-8").strip():
            self.write_secret(name, make() if make else secrets.token_hex(24))
        return file.read_text(encoding="utf-8").strip()

    def write_secret(self, name: str, value: str) -> Path:
        """Writes a secret atomically, with mode 0600 from the start."""
        file = self.root / "secrets" / name
        draft = file.with_name(f".{name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
            output.write(value + "\n")
        draft.replace(file)
        return file

    def load(self) -> StackState:
        """Reads the saved state; an unreadable file counts as empty."""
        try:
            # A killed command or another version may have left any content.
            tree = json.loads((self.root / "state.json").read_text(encoding="utf-8"))
            processes = {name: ProcessId.born_at(**entry) for name, entry in tree["processes"].items()}
            return StackState(tree.get("store"), {k: int(v) for k, v in tree["ports"].items()}, processes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return StackState()

    def save(self, state: StackState) -> None:
        """Writes the state atomically."""
        processes = {name: {"pid": process.pid, "born": process.born} for name, process in state.processes.items()}
        tree = {"store": state.store, "ports": state.ports, "processes": processes}
        # A rename is atomic: a kill leaves the old state or the new one.
        draft = self.root / f".state.{os.getpid()}"
        draft.write_text(json.dumps(tree, indent=2), encoding="utf-8")
        draft.replace(self.root / "state.json")


class Component(ABC):
    """A server of the stack: installation, start and checks."""

    name: str
    needs: Sequence[str] = ()
    """Components that must be up before it starts."""
    ports: Sequence[str] = ()
    """Names of its ports in the state."""
    processes: Sequence[str] = ()
    """Names of its processes in the order of starting; stopped in the opposite order."""
    stop_signal: int = 15
    attempts: int = 1
    """Number of starts before a process that ended while starting is a failure."""

    def __init__(self, layout: StackLayout, port: Mapping[str, int]) -> None:
        self.layout = layout
        self.port = port

    @classmethod
    @abstractmethod
    def install_command(cls) -> str | None:
        """Command that installs what is missing, if anything is."""

    @abstractmethod
    def start(self, launch: Callable[[Launch], None]) -> None:
        """Prepares and launches its processes, in order.

        Returns before they are up, unless a later process needs an earlier one.
        """

    @abstractmethod
    def health_addresses(self) -> Sequence[str]:
        """Addresses that answer once it is up (`health.py`)."""

    def initialize(self) -> None:  # noqa: B027 - most components need nothing
        """Finishes the set-up once it answers; repeatable."""

    def address(self) -> str:
        """Address for people."""
        return f"{HOST}:{self.port[self.ports[0]]}"
