"""PURE: is the process behind a run still there, where only its record can tell?

Whoever holds a run changes a tag of it, its *lease*, every minute. Whoever looks compares what stands there with what
stood there before, by its own clock since boot alone: clocks of two hosts are never compared, so none of them can be
wrong. A run is given up after three looks: the lease was seen, it stood unchanged for its whole term, and once more for
long enough that a holder who had been cut off would have renewed it.

A holder that was given up although it lives, because it was cut off for minutes, takes its run back (`keeper`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

RENEW_EVERY_S = 60.0
TERM_S = 300.0
# Longer than renewing takes once the server is back, and than the pause before it.
LAST_CHANCE_S = 2 * RENEW_EVERY_S

Verdict = Literal["held", "doubtful", "gone"]


@dataclass(frozen=True)
class Sighting:
    """A lease as it was seen, in seconds of the observer's clock since boot.

    since_s -- first seen so; doubtful_s -- when its term was found to be over, None before
    """

    lease: str
    since_s: float
    doubtful_s: float | None = None


def judge(lease: str, seen: Sighting | None, now_s: float, *, term_s: float = TERM_S) -> tuple[Verdict, Sighting]:
    """What to think of a run whose lease reads `lease` now and was last seen as `seen`; and what to remember."""
    started_over = seen is not None and now_s < max(seen.since_s, seen.doubtful_s or 0.0)
    if seen is None or seen.lease != lease or started_over:
        return "held", Sighting(lease, now_s)
    if seen.doubtful_s is None:
        if now_s - seen.since_s < term_s:
            return "held", seen
        return "doubtful", Sighting(lease, seen.since_s, now_s)
    if now_s - seen.doubtful_s < LAST_CHANCE_S * term_s / TERM_S:
        return "doubtful", seen
    return "gone", seen


def sightings_from_json(stored: Any, *, boot: str) -> dict[str, Sighting]:
    """What was remembered since this boot; nothing where it is unreadable or from an earlier one."""
    if not isinstance(stored, Mapping) or stored.get("boot") != boot:
        return {}
    try:
        return {str(run_id): Sighting(**sighting) for run_id, sighting in stored["seen"].items()}
    except (KeyError, TypeError, AttributeError):
        return {}
