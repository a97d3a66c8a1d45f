"""Where a stack lives: its folders, ports and secrets, and how a part of it is described.

ROOT/secrets/NAME   0600 each, in a folder of 0700      ROOT/logs/PART.log
ROOT/data/PART      what a part keeps                   ROOT/state.json   ports, and processes by number and birth
RUN                 a short path beside: addresses of Unix sockets may be no longer than 107 bytes
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import secrets
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from trainplane.cluster.stack.supervisor import Launch, Recorded
from trainplane.errors import RunFailed, UserError

HOST = "127.0.0.1"


@dataclass
class State:
    """What is remembered between commands."""

    store: str | None = None
    ports: dict[str, int] = field(default_factory=dict)
    processes: dict[str, Recorded] = field(default_factory=dict)


@dataclass(frozen=True)
class Site:
    """One stack's folders. Two stacks with different roots share nothing."""

    root: Path

    @property
    def mark(self) -> str:
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:16]

    @property
    def run(self) -> Path:
        return Path(tempfile.gettempdir()) / f"isnet-stack-{self.mark[:8]}"

    def data(self, part: str) -> Path:
        return self.root / "data" / part

    def log(self, process: str) -> Path:
        return self.root / "logs" / f"{process}.log"

    def make(self) -> None:
        """Folders that all parts need; `UserError` where one of them is somebody else's."""
        for folder in (self.root, self.root / "logs", self.root / "data"):
            folder.mkdir(parents=True, exist_ok=True)
        for private in (self.root / "secrets", self.run):
            private.mkdir(mode=0o700, exist_ok=True)
            # In a folder that everybody may write to another user could have been there first.
            if private.is_symlink() or private.stat().st_uid != os.getuid():
                raise UserError(f"{private} belongs to another user; remove it, or set TMPDIR to a folder of yours")
            private.chmod(0o700)

    def secret(self, name: str, make: Callable[[], str] | None = None) -> str:
        """The secret `name`; made at first use, by `make` or as 48 random letters and digits."""
        file = self.root / "secrets" / name
        if not file.exists() or not file.read_text(encoding="utf-8").strip():
            self.write_secret(name, make() if make else secrets.token_hex(24))
        return file.read_text(encoding="utf-8").strip()

    def write_secret(self, name: str, value: str) -> Path:
        """Store it with mode 0600 from its first byte on, whole or not at all."""
        file = self.root / "secrets" / name
        draft = file.with_name(f".{name}.{os.getpid()}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as output:
            output.write(value + "\n")
        draft.replace(file)
        return file

    def load(self) -> State:
        """What an earlier command noted; a file that cannot be read counts as none."""
        try:
            tree = json.loads((self.root / "state.json").read_text(encoding="utf-8"))
            processes = {name: Recorded(**entry) for name, entry in tree["processes"].items()}
            return State(tree.get("store"), {k: int(v) for k, v in tree["ports"].items()}, processes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return State()

    def save(self, state: State) -> None:
        draft = self.root / f".state.{os.getpid()}"
        draft.write_text(json.dumps(asdict(state), indent=2), encoding="utf-8")
        draft.replace(self.root / "state.json")


class Part(ABC):
    """A part of the stack: what it needs, how it is started, and how one sees that it is up."""

    name: str
    needs: Sequence[str] = ()
    """Parts that must be up before it starts."""
    ports: Sequence[str] = ()
    """Names of its ports in the state."""
    processes: Sequence[str] = ()
    """Names of its processes in the order of starting; ended in the opposite order."""
    stop_signal: int = 15
    attempts: int = 1
    """How often it is started before a process that ended while starting is a failure."""

    def __init__(self, site: Site, port: Mapping[str, int]) -> None:
        self.site = site
        self.port = port

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """The one command that installs what it lacks, or None."""

    @abstractmethod
    def start(self, launch: Callable[[Launch], None]) -> None:
        """Prepare and launch its processes, in order; returns before they are up unless a later one needs that."""

    @abstractmethod
    def checks(self) -> Sequence[str]:
        """Addresses that answer when it is up (health.py)."""

    def settle(self) -> None:  # noqa: B027 - most parts have nothing to settle
        """What is left to do once it answers, such as making a bucket. May be repeated."""

    def address(self) -> str:
        """What a person would look at."""
        return f"{HOST}:{self.port[self.ports[0]]}"


def free_port(taken: Collection[int], seed: str) -> int:
    """A port of loopback that nobody listens on now, not among `taken`.

    Below those that systems give out by themselves (32768 on Linux): Ray's processes take many of these at any time,
    and would have one before the part does that it was meant for.
    """
    chance = random.Random(seed)
    for _ in range(1000):
        port = chance.randrange(20_000, 32_000)
        if port not in taken and is_free(port):
            return port
    raise RunFailed("no port between 20000 and 32000 is free on loopback; end what listens there")


def is_free(port: int) -> bool:
    """Whether a server could bind it now (a connection that just ended does not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
