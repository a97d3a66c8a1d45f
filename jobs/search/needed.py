"""Tells which checkpoints searches need."""

from __future__ import annotations

from jobs.search.stored import stored_searches
from trainplane.cluster.context import Context
from trainplane.search.report.summary import leaderboard


def needed_checkpoints(context: Context) -> dict[str, str]:
    """Addresses of checkpoints and runs that searches need.

    A search that has ended needs its best trials. One that has not goes on from all of its trials.

    Returns:
        The search's name by address.
    """
    needed: dict[str, str] = {}
    for search in stored_searches(context, whole=True):
        state = search.state
        board = leaderboard(state)
        best = [*board.front, *([board.best] if board.best else [])]
        ended = state.end_reason is not None
        for trial in best if ended else state.trials.values():
            if trial.checkpoint:
                who = f"the best of search {search.folder}" if ended else f"search {search.folder}, which has not ended"
                needed[trial.checkpoint] = needed[trial.checkpoint.rpartition("/")[0]] = who
    return needed
