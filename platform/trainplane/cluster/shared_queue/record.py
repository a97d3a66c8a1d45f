"""Jobs of the shared queue, as they are recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

State = Literal["waiting", "running", "yielding", "ended"]

# What a job may need, by Ray's names; `driver` is a place on the head.
RESOURCES = ("CPU", "GPU", "driver")
# More than any cluster has: the job takes what there is.
ALL = 1e9


@dataclass(frozen=True)
class Template:
    """Everything that starts a job on any machine; no secrets."""

    words: tuple[str, ...]  # The command as people read it
    entrypoint: str
    packages: tuple[tuple[str, str], ...]  # Name and digest of each archive of a Python package
    working_dir: str  # Digest of the archive of its current folder
    environment: Mapping[str, str]
    needs: Mapping[str, float]  # By name of `RESOURCES`
    cpus: float = 0.0  # Processors of the command itself; 0: a place on the head
    user: str = "unknown"
    priority: int = 0  # Higher ones go first

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Template:
        """Reads what `asdict` wrote."""
        packages = tuple((str(name), str(digest)) for name, digest in stored["packages"])
        return Template(**{**_known(Template, stored), "words": tuple(stored["words"]), "packages": packages})


@dataclass(frozen=True)
class QueueJob:
    """Job of the queue, changed by the lease's holder."""

    id: str
    template: Template
    submitted: float  # Seconds since the epoch
    state: State = "waiting"
    attempts: int = 0  # Times that it was started
    started: float = 0.0  # Of the last attempt, seconds since the epoch
    ended: float = 0.0
    status: str = ""  # Ray's, once it has ended
    exit: int | None = None
    message: str = ""  # What happened last, for people
    is_cancelled: bool = False

    @property
    def ray_job(self) -> str:
        """Id of the last attempt as a Ray job."""
        return f"{self.id}-{self.attempts}"

    @property
    def holds_room(self) -> bool:
        """True while it takes resources."""
        return self.state in ("running", "yielding")

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> QueueJob:
        """Reads what `to_json` wrote, without fields of newer code."""
        return QueueJob(**{**_known(QueueJob, stored), "template": Template.from_json(stored["template"])})


@dataclass(frozen=True)
class Quotas:
    """Limits of what a user's running jobs take together."""

    default: Mapping[str, float] = field(default_factory=dict)  # By resource, or `jobs`
    users: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def of(self, user: str) -> Mapping[str, float]:
        """Limits of one user, by resource, or `jobs`."""
        return {**self.default, **self.users.get(user, {})}


def _known(kind: type, stored: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.name: stored[entry.name] for entry in fields(kind) if entry.name in stored}
