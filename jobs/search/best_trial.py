"""The best trial of a search, and what to make of it before it becomes a model version.

    isnet models register --from-search search_demo --name isnet-demo [--steps 2000] [--seeds 3]

With more steps the trial's own run goes on from where the search left it; of several seeds the one that is best by the
search's objective is taken. Not covered: registering itself (`registering`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.config import ISNetConfig
from jobs.search.spec import build_search, load_search
from jobs.train.run import run_training
from trainplane.cluster.context import Context
from trainplane.errors import UserError
from trainplane.search.policy.state import score
from trainplane.search.report.summary import leaderboard
from trainplane.search.run.launch import read_state


@dataclass(frozen=True)
class BestTrial:
    """A checkpoint to register, and the MLflow run that made it."""

    checkpoint: str
    run_id: str
    trial: int


def best_of_search(
    context: Context, preset: str, overrides: Sequence[str] = (), *, steps: int | None = None, seeds: int = 1
) -> BestTrial:
    """The best trial's checkpoint; trained anew where `steps` or `seeds` ask for more than the search did."""
    search = build_search(load_search(preset, overrides), context)
    state = read_state(search, context)
    if state is None:
        raise UserError(f"search {search.name!r} was not run here with these settings; run `isnet tune {preset}` first")
    best = leaderboard(state).best
    if best is None:
        raise UserError(f"search {search.name!r} has no trial with a finite value; nothing to register")
    if steps is None and seeds == 1:
        return BestTrial(best.checkpoint, best.run_id, best.number)
    config = search.configure(best.number, best.settings, best.segment)
    if not isinstance(config, ISNetConfig):
        raise UserError(f"search {search.name!r} is of another task; train its best trial with `isnet train`")
    outcomes = []
    for number in range(seeds):
        train = config.train.model_copy(
            update={"steps": steps or config.train.steps, "seed": config.train.seed + number}
        )
        # With its own seed it is the trial's own run, which goes on from where the search left it.
        name = config.name if number == 0 else f"{config.name[:50]}-seed{number}"
        again = config.model_copy(update={"train": train, "name": name})
        prepared, outcome = run_training(again, context, fresh=False)
        found = score(outcome.metrics, search.settings.goals[0])
        outcomes.append((found if found is not None else -math.inf, -number, outcome, prepared.run_id))
    _, _, outcome, run_id = max(outcomes, key=lambda one: one[:2])
    return BestTrial(outcome.checkpoint, run_id, best.number)
