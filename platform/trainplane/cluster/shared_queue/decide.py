"""Decides who runs and who gives way. Pure: no I/O.

Jobs are taken by priority, then in the order of submission. One that does not fit takes the room of running jobs of
strictly lower priority, the lowest first and of those the youngest, which has least to lose; and only where that is
enough. What it waits for is kept free for it: no job behind it starts there, so that a large job is not passed by small
ones for ever. A job that its user's quota holds back keeps no holder job waiting.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trainplane.cluster.shared_queue.record import QueueJob, Quotas

Resources = Mapping[str, float]
# Sums of shares such as 0.1 are not exact.
_SLACK = 1e-6


@dataclass(frozen=True)
class Action:
    """One thing to do with a job."""

    kind: Literal["start", "yield"]
    job: str
    to: str = ""  # Job that needs its room


@dataclass(frozen=True)
class Decision:
    """Actions to take now, and reasons for waiting."""

    actions: tuple[Action, ...]
    waiting: Mapping[str, str]  # Reason by job


def decide(jobs: Sequence[QueueJob], capacity: Resources, quotas: Quotas) -> Decision:
    """Decides about all jobs at once.

    Args:
        jobs: All that have not ended.
        capacity: What the cluster has, by resource.
        quotas: Limits by user.
    """
    if not capacity:
        # Its nodes have not come, or not come back. A job's needs would count for nothing.
        return Decision((), {job.id: "the cluster has no node yet" for job in jobs if job.state == "waiting"})
    holding = [job for job in jobs if job.holds_room]
    free = dict(capacity)
    for job in holding:
        free = _sum(free, needs_of(job, capacity), sign=-1)
    running = [job for job in holding if job.state == "running" and not job.is_cancelled]
    used = _used_by_user(holding, capacity)
    actions: list[Action] = []
    reasons: dict[str, str] = {}
    is_blocked = ""
    for job in sorted((job for job in jobs if job.state == "waiting"), key=rank):
        user, needs = job.template.user, needs_of(job, capacity)
        if over := _over_quota(used.get(user, {}), needs, quotas.of(user)):
            reasons[job.id] = f"{user}'s quota of {over} is used"
            continue
        if is_blocked:
            reasons[job.id] = f"job {is_blocked} is before it"
            continue
        if _fits(needs, free):
            actions.append(Action("start", job.id))
            free = _sum(free, needs, sign=-1)
            used[user] = _sum(used.get(user, {}), {**needs, "jobs": 1.0})
            continue
        # It does not fit: whoever is behind it waits, too.
        is_blocked = job.id
        expected = free
        for holder in holding:
            # A job that gives way already is room to come, unless it takes that again before this one.
            if holder.is_cancelled or (holder.state == "yielding" and rank(holder) > rank(job)):
                expected = _sum(expected, needs_of(holder, capacity))
        if _fits(needs, expected):
            reasons[job.id] = "another job is giving way to it"
            continue
        victims = _victims(job, needs, expected, running, capacity)
        actions += [Action("yield", victim.id, to=job.id) for victim in victims]
        reasons[job.id] = "another job is giving way to it" if victims else _lacks(needs, free, capacity)
    return Decision(tuple(actions), reasons)


def rank(job: QueueJob) -> tuple[int, float, str]:
    """Place of a waiting job: the smallest is first."""
    return -job.template.priority, job.submitted, job.id


def needs_of(job: QueueJob, capacity: Resources) -> dict[str, float]:
    """Resources of a job; never more than the cluster has."""
    # A job that is larger than the cluster starts on an empty one, and waits there for nodes.
    needs = job.template.needs
    return {name: min(needs.get(name, 0.0), amount) for name, amount in capacity.items() if needs.get(name)}


def _victims(
    job: QueueJob, needs: Resources, expected: Resources, running: Sequence[QueueJob], capacity: Resources
) -> list[QueueJob]:
    """Running jobs that give way to `job`, if that suffices."""
    lower = [holder for holder in running if holder.template.priority < job.template.priority]
    room, chosen = dict(expected), list[QueueJob]()
    for holder in sorted(lower, key=lambda holder: (holder.template.priority, -holder.started, holder.id)):
        amounts = needs_of(holder, capacity)
        # What it holds must be among what is missing.
        if not any(room.get(name, 0.0) + _SLACK < needs[name] and amounts.get(name) for name in needs):
            continue
        chosen.append(holder)
        room = _sum(room, amounts)
        if _fits(needs, room):
            break
    if not _fits(needs, room):
        return []
    # A later, larger one may have made an earlier one needless.
    for holder in list(chosen):
        without = _sum(room, needs_of(holder, capacity), sign=-1)
        if _fits(needs, without):
            chosen.remove(holder)
            room = without
    return chosen


def _used_by_user(holding: Sequence[QueueJob], capacity: Resources) -> dict[str, dict[str, float]]:
    used: dict[str, dict[str, float]] = {}
    for job in holding:
        user = job.template.user
        used[user] = _sum(used.get(user, {}), {**needs_of(job, capacity), "jobs": 1.0})
    return used


def _over_quota(used: Mapping[str, float], needs: Resources, quota: Resources) -> str:
    """Names a limit that the job would pass, if any."""
    for name, limit in quota.items():
        needed = 1.0 if name == "jobs" else needs.get(name, 0.0)
        if needed and used.get(name, 0.0) + needed > limit + _SLACK:
            return f"{limit:g} {name}"
    return ""


def _fits(needs: Resources, room: Mapping[str, float]) -> bool:
    return all(room.get(name, 0.0) + _SLACK >= amount for name, amount in needs.items())


def _sum(first: Resources, second: Resources, *, sign: int = 1) -> dict[str, float]:
    return {name: first.get(name, 0.0) + sign * second.get(name, 0.0) for name in {*first, *second}}


def _lacks(needs: Resources, free: Mapping[str, float], capacity: Resources) -> str:
    short = [name for name, amount in needs.items() if free.get(name, 0.0) + _SLACK < amount]
    texts = [f"{needs[name]:g} {name} ({max(0.0, free.get(name, 0.0)):g} of {capacity[name]:g} free)" for name in short]
    return f"it needs {', '.join(texts)}"
