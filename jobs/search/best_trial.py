"""Finds the best trial of a search, for registration.

    isnet models register --from-search search_demo --name isnet-demo [--steps 2000] [--seeds 3]

With more steps, the trial's own run resumes where the search stopped it. With several seeds, the best one by the
search's objective is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.config import ISNetConfig
from jobs.search.stored import find_search
from jobs.train.run import run_training
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import UserError
from trainplane.search.policy.state import score
from trainplane.search.report.summary import leaderboard


@dataclass(frozen=True)
class BestTrial:
    """Checkpoint to register, with its MLflow run and trial."""

    checkpoint: str
    run_id: str
    trial: int


def best_of_search(
    context: Context, preset: str, overrides: Sequence[str] = (), *, steps: int | None = None, seeds: int = 1
) -> BestTrial:
    """Returns the best trial's checkpoint, trained further on request."""
    search, state = find_search(context, [preset, *overrides])
    best = leaderboard(state).best
    if best is None:
        raise UserError(
            f"search {search.name!r} has no trial with a finite value, so there is nothing to register; "
            f"see why: {command_line('tune', 'show', search.folder.rpartition('/')[2])}"
        )
    if steps is None and seeds == 1:
        return BestTrial(best.checkpoint, best.run_id, best.number)
    config = search.configure(best.number, best.settings, best.segment)
    if not isinstance(config, ISNetConfig):
        raise UserError(
            f"search {search.name!r} is of another task; train its best trial with `{command_line('train', 'PRESET')}`"
        )
    candidates = []
    for number in range(seeds):
        train = config.train.model_copy(
            update={"steps": steps or config.train.steps, "seed": config.train.seed + number}
        )
        # With its own seed and name it is the trial's own run, which resumes where the search stopped it.
        name = config.name if number == 0 else f"{config.name[:50]}-seed{number}"
        longer = config.model_copy(update={"train": train, "name": name})
        prepared, outcome = run_training(longer, context, fresh=False)
        result = score(outcome.metrics, search.settings.goals[0])
        candidates.append((result if result is not None else -math.inf, -number, outcome, prepared.run_id))
    # The best score; of equal ones the first seed.
    _, _, outcome, run_id = max(candidates, key=lambda candidate: candidate[:2])
    return BestTrial(outcome.checkpoint, run_id, best.number)
