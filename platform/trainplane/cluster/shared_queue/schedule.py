"""Recurring jobs, and their moments. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from trainplane.cluster.shared_queue.record import QueueJob, Template
from trainplane.errors import UserError

# A moment that was missed by more is skipped: a week of nightly jobs must not start at once.
LATEST_S = 3600.0


@dataclass(frozen=True)
class Schedule:
    """A command that is submitted again and again."""

    name: str
    cron: str  # Five fields, UTC
    template: Template
    since: float  # Seconds since the epoch; moments before it are none

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Schedule:
        """Reads what `to_json` wrote."""
        template = Template.from_json(stored["template"])
        return Schedule(str(stored["name"]), str(stored["cron"]), template, float(stored["since"]))


def checked_cron(cron: str, *, now: float) -> str:
    """Returns a schedule that will be met; `UserError` for others."""
    from croniter import CroniterBadCronError, CroniterBadDateError, croniter

    try:
        if len(cron.split()) != 5:
            raise CroniterBadCronError("it has not five fields")
        croniter(cron, datetime.fromtimestamp(now, UTC)).get_next(float)
    except CroniterBadDateError:
        raise UserError(f"{cron!r} is never met: no such day comes; write for example '0 3 * * *', 03:00 UTC") from None
    except (CroniterBadCronError, ValueError, KeyError) as error:
        raise UserError(
            f"{cron!r} is no schedule ({error}); need minute, hour, day, month and weekday, for example "
            "'0 3 * * 1-5', 03:00 UTC from Monday to Friday"
        ) from None
    return cron


def checked_name(name: str) -> str:
    """Returns a name of a schedule; `UserError` for others."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,39}", name):
        raise UserError(f"{name!r} is no name of a schedule; need up to 40 lower case letters, digits and -")
    return name


def next_moment(cron: str, after: float) -> float:
    """First moment after `after`, in seconds since the epoch."""
    from croniter import croniter

    return float(croniter(cron, datetime.fromtimestamp(after, UTC)).get_next(float))


def last_moment(cron: str, now: float) -> float:
    """Last moment of a schedule at or before `now`."""
    from croniter import croniter

    # `get_prev` is strictly before.
    return float(croniter(cron, datetime.fromtimestamp(now + 1e-3, UTC)).get_prev(float))


def due_job(schedule: Schedule, now: float) -> QueueJob | None:
    """Job of the last moment, unless too old or early.

    Its id names the moment, so that it is created once, however often it is asked for.
    """
    moment = last_moment(schedule.cron, now)
    if moment < schedule.since or now - moment > LATEST_S:
        return None
    stamp = datetime.fromtimestamp(moment, UTC).strftime("%Y%m%dt%H%M")
    return QueueJob(id=f"isnet-{schedule.name}-{stamp}", template=schedule.template, submitted=moment)
