"""Events of one search. Pure."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from trainplane.notify.event import Event


def search_finished(name: str, run_id: str, *, ended: str, trials: int, best: Mapping[str, object]) -> Event:
    """Event of a finished search; `best` describes its best trial."""
    figures = "\n".join(f"{key}: {value}" for key, value in best.items())
    return Event.of(
        "search.finished",
        f"search {name} finished: {trials} trials",
        f"{ended}\nbest trial:\n{figures}\nrun {run_id}",
        once=(run_id, uuid.uuid4().hex),
        name=name,
        run_id=run_id,
        ended=ended,
        trials=trials,
        best=dict(best),
    )


def search_broken(name: str, run_id: str, *, reason: str) -> Event:
    """Event of a search that failed; without `reason`, was interrupted."""
    kind, word = ("search.failed", "failed") if reason else ("search.stopped", "was stopped")
    return Event.of(
        kind,
        f"search {name} {word}",
        f"{reason or 'the same command goes on from its journal'}\nrun {run_id}",
        once=(run_id, uuid.uuid4().hex),
        name=name,
        run_id=run_id,
        reason=reason,
    )


def budget_near(name: str, run_id: str, limit: str) -> Event:
    """Event of a search near a limit, named in `limit`."""
    return Event.of("budget.near", f"search {name}: {limit}", f"run {run_id}", once=(run_id, limit), run_id=run_id)
