"""Interface between the server's core and what computes answers.

The core decides which version answers; an engine opens versions and computes. One engine runs in this process, another
on replicas of Ray Serve. Inputs and outputs are bytes that the core never looks into.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from trainplane.errors import RunFailed

Fact = str | int | float


class BadOutput(RunFailed):
    """Raised for an answer of NaN or infinity."""


class EngineBusy(RunFailed):
    """Raised where the engine cannot take another request now."""


@dataclass(frozen=True)
class ServedVersion:
    """A version that is open, warm and may answer."""

    version: str
    digest: str  # Sha256 of its files, as they were checked
    facts: Mapping[str, Fact] = field(default_factory=dict)  # Of the model, such as the size that it was trained on
    gates_passed: int | None = None  # None where no gate has judged it
    gates_failed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """An answer's bytes, with notes and facts about it."""

    content: bytes
    media_type: str
    notes: tuple[str, ...] = ()
    facts: Mapping[str, Fact] = field(default_factory=dict)


class Engine(Protocol):
    """Opens versions of one registered model, and answers with them."""

    async def prepare(self, version: str) -> ServedVersion:
        """Fetches a version, checks its digest, and warms it up."""

    async def answer(self, version: str, inputs: Mapping[str, bytes], options: Mapping[str, object]) -> Output:
        """Answers a request with a version that was prepared.

        Raises:
            ValueError: The inputs cannot be used; the message is for the user.
            BadOutput: The model answered with NaN or infinity.
        """

    async def difference(self, one: Output, other: Output) -> Mapping[str, float]:
        """Compares two answers to one request, in numbers."""

    async def release(self, version: str) -> None:
        """Forgets a version that answers no more."""
