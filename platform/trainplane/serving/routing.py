"""Decides which version answers a request; pure.

A version that was asked for answers itself, or the request is refused. Otherwise the share decides by the request's
own name, so that the same name always gives the same route.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from trainplane.errors import UserError

ShareMode = Literal["none", "shadow", "canary"]
MOST_VERSIONS = 2


class VersionNotServed(UserError):
    """Raised for a named version that is not served."""


@dataclass(frozen=True)
class TrafficSplit:
    """Division of requests between two versions."""

    production: str
    candidate: str | None = None
    mode: ShareMode = "none"
    share: float = 0.0  # Of requests that name no version, answered by the candidate; 0 to 1

    def share_of(self, version: str) -> float:
        """Share of the requests that name no version."""
        candidate = self.share if self.mode == "canary" and self.candidate is not None else 0.0
        if version == self.production:
            return 1.0 - candidate
        return candidate if version == self.candidate else 0.0

    def text(self) -> str:
        """The division in words."""
        if self.candidate is None:
            return f"version {self.production} answers all requests"
        beside = {"none": "is asked by number alone", "shadow": "is mirrored", "canary": f"answers {self.share:.4g}"}
        return f"version {self.production} answers, version {self.candidate} {beside[self.mode]}"

    def roles_of(self, version: str) -> list[str]:
        """Roles of a version, for showing."""
        roles = {"production": self.production, "candidate": self.candidate}
        return [role for role, number in roles.items() if number == version]


@dataclass(frozen=True)
class Route:
    """Versions that answer one request."""

    answers: tuple[str, ...]  # Shown to the user, one or two
    fallback: str | None = None  # Answers if the first one fails; None where the user named the version
    mirrored: str | None = None  # Answers too, and nobody sees it


def route(split: TrafficSplit, served: Collection[str], asked: Sequence[str], name: str) -> Route:
    """Routes one request.

    Args:
        split: The division of traffic now.
        served: Versions that are open.
        asked: Versions that the request names, at most two; none lets the share decide.
        name: The request's own name, such as its trace.

    Raises:
        VersionNotServed: A named version is not open.
        UserError: Too many versions are named, or one twice.
    """
    if len(asked) > MOST_VERSIONS or len(set(asked)) < len(asked):
        raise UserError(f"the request names the versions {', '.join(asked)}; name at most two different ones")
    for version in asked:
        if version not in served:
            raise VersionNotServed(
                f"version {version[:40]} is not served here (served: {', '.join(sorted(served, key=_number))}); "
                "name one of these, or none"
            )
    if asked:
        return Route(tuple(asked))
    # A candidate that is not open yet gets no traffic.
    if split.candidate is None or split.candidate not in served:
        return Route((split.production,))
    if split.mode == "shadow":
        return Route((split.production,), mirrored=split.candidate)
    if split.mode == "canary" and draw(name) < split.share:
        return Route((split.candidate,), fallback=split.production)
    return Route((split.production,))


def draw(name: str) -> float:
    """Number in [0, 1) that follows from a name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2.0**64


def _number(version: str) -> tuple[int, str]:
    return (int(version), "") if version.isdigit() else (0, version)
