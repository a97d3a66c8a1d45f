"""Which settings the next trial gets: from its number alone (random, grid), or from what is known of others (TPE).

Optuna's sampler is fed anew with the trials as they were committed, seeded by the trial's number: the same journal
gives the same suggest_settings, in whichever process. Early-stopped trials tell it how they stood, those that ran into NaN
that this is the worst, those under way that somebody is there already. Not covered: take-overs (`pbt`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.search.config import SearchSettings
from trainplane.search.policy.state import SearchState, TrialState, score
from trainplane.search.space import Settings, Space

TPE_TRIES = 50
DUPLICATE_TRIES = 200


def suggest_settings(number: int, settings: SearchSettings, space: Space, state: SearchState) -> Settings | None:
    """The settings of trial `number`; None where every combination has been tried."""
    if settings.algorithm == "grid":
        grid = space.grid()
        return grid[number] if number < len(grid) else None
    taken = {_key(trial.settings) for trial in state.trials.values()}
    if settings.algorithm == "tpe" and number >= settings.startup - len(state.prior_results):
        for attempt in range(TPE_TRIES):
            found = _tpe(number, attempt, settings, space, state)
            if space.holds(found) and _key(found) not in taken:
                return found
    return _untried(number, space, taken)


def _untried(number: int, space: Space, taken: set[bytes]) -> Settings | None:
    """The random trial of this number; of numbers far beyond it, where those settings were tried already."""
    for attempt in range(DUPLICATE_TRIES):
        found = space.random(number + (attempt << 20))
        if _key(found) not in taken:
            return found
    return None


def _key(settings: Settings) -> bytes:
    return canonical_json(settings)


def _tpe(number: int, attempt: int, settings: SearchSettings, space: Space, state: SearchState) -> Settings:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(
        seed=(settings.seed * 1_000_003 + number * 101 + attempt) % 2**31,
        n_startup_trials=1,
        constant_liar=True,
        multivariate=False,
    )
    directions: list[Any] = ["maximize" if goal.mode == "max" else "minimize" for goal in settings.goals]
    study = optuna.create_study(sampler=sampler, directions=directions)
    for trial in optuna_trials(settings, space, state):
        study.add_trial(trial)
    asked = study.ask()
    return _drawn(space, lambda name: _ask(asked, name, space))


def _drawn(space: Space, value_of: Callable[[str], Any]) -> Settings:
    found: Settings = {}
    for name in space.dimensions:
        if space.is_active(name, found):
            found[name] = value_of(name)
    return found


def _ask(asked: Any, name: str, space: Space) -> Any:
    dimension = space.dimensions[name]
    if dimension.choice is not None:
        # By place: a choice may be a list, which Optuna cannot keep.
        return dimension.choice[asked.suggest_categorical(name, list(range(len(dimension.choice))))]
    if dimension.integers is not None:
        return asked.suggest_int(name, *dimension.integers)
    low, high = dimension.edges
    return asked.suggest_float(name, low, high, log=dimension.log_uniform is not None)


def optuna_trials(settings: SearchSettings, space: Space, state: SearchState) -> list[Any]:
    """Everything known, as Optuna's trials, in the order of commits; what is under way comes last."""
    import optuna

    found = []
    for prior in state.prior_results:
        if all(
            name in space.dimensions and space.dimensions[name].contains(v) for name, v in prior["settings"].items()
        ):
            found.append(completed_trial(space, prior["settings"], prior["values"]))
    committed: dict[int, None] = {}
    for number in state.commit_order:
        # A trial that went on since stands where it was committed last.
        trial = state.items[number].trial
        committed.pop(trial, None)
        committed[trial] = None
    worst = _worst(settings, state)
    for number in committed:
        one = _told(optuna, settings, space, state.trials[number], worst)
        if one is not None:
            found.append(one)
    running = [one for number, one in sorted(state.trials.items()) if number not in committed]
    for under_way in running:
        params, distributions = _params(optuna, space, under_way.settings)
        state_ = optuna.trial.TrialState.RUNNING
        found.append(optuna.trial.create_trial(state=state_, params=params, distributions=distributions))
    return found


def _told(
    optuna: Any, settings: SearchSettings, space: Space, trial: TrialState, worst: list[float] | None
) -> Any | None:
    scores = [score(trial.values, goal) for goal in settings.goals]
    known = None not in scores and trial.status not in ("nan", "failed")
    if settings.asha is None:
        if known:
            return completed_trial(space, trial.settings, [trial.values[goal.metric] for goal in settings.goals])
        # Worth as little as the worst that is known.
        return None if worst is None or trial.status == "failed" else completed_trial(space, trial.settings, worst)
    if trial.status == "failed":
        return None
    params, distributions = _params(optuna, space, trial.settings)
    metric = settings.goals[0].metric
    curve = {step: values[metric] for step, values in trial.curve.items() if metric in values} if known else {}
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED,
        params=params,
        distributions=distributions,
        intermediate_values={step: value for step, value in curve.items() if step <= trial.step}
        or {max(trial.step, 0): math.nan},
    )


def _worst(settings: SearchSettings, state: SearchState) -> list[float] | None:
    """The worst finite value of each objective so far."""
    rows = [
        [trial.values[goal.metric] for goal in settings.goals]
        for trial in state.trials.values()
        if all(score(trial.values, goal) is not None for goal in settings.goals)
    ]
    if not rows:
        return None
    columns = zip(*rows, strict=True)
    return [
        min(column) if goal.mode == "max" else max(column) for goal, column in zip(settings.goals, columns, strict=True)
    ]


def completed_trial(space: Space, settings: Settings, values: list[float]) -> Any:
    """A trial that was trained to its end, as Optuna's."""
    import optuna

    params, distributions = _params(optuna, space, settings)
    return optuna.trial.create_trial(params=params, distributions=distributions, values=values)


def _params(optuna: Any, space: Space, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    params, distributions = {}, {}
    for name, value in settings.items():
        dimension = space.dimensions[name]
        if dimension.choice is not None:
            params[name] = dimension.choice.index(value)
            distributions[name] = optuna.distributions.CategoricalDistribution(list(range(len(dimension.choice))))
        elif dimension.integers is not None:
            params[name] = value
            distributions[name] = optuna.distributions.IntDistribution(*dimension.integers)
        else:
            low, high = dimension.edges
            params[name] = min(max(value, low), high)
            distributions[name] = optuna.distributions.FloatDistribution(
                low, high, log=dimension.log_uniform is not None
            )
    return params, distributions
