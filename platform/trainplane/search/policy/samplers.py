"""Suggests settings of the next trial: random, grid or TPE.

Random and grid follow from the trial's number alone. For TPE, a new Optuna sampler gets all committed trials and a seed
from the trial's number, so the same journal gives the same settings in every process. It learns the curves of trials
that were stopped early, that NaN is as bad as the worst, and that settings of trials under way are taken.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.search.config import SearchSettings
from trainplane.search.policy.state import SearchState, TrialState, score
from trainplane.search.space import Settings, Space

# Attempts of TPE at settings that are new and meet the constraints.
TPE_TRIES = 50
# Attempts at random settings that are new, in a space that may be finite.
DUPLICATE_TRIES = 200


def suggest_settings(number: int, settings: SearchSettings, space: Space, state: SearchState) -> Settings | None:
    """Settings of trial `number`; None if every combination was tried."""
    if settings.algorithm == "grid":
        grid = space.grid()
        return grid[number] if number < len(grid) else None
    earlier = {_key(trial.settings) for trial in state.trials.values()}
    # Results of an earlier search stand for random trials at the start.
    if settings.algorithm == "tpe" and number >= settings.startup - len(state.prior_results):
        for drawn in _tpe(number, settings, space, state):
            if space.holds(drawn) and _key(drawn) not in earlier:
                return drawn
    return _random_untried(number, space, earlier)


def _random_untried(number: int, space: Space, earlier: set[bytes]) -> Settings | None:
    # Random settings of a trial that were not tried yet. Duplicates are replaced by the settings of trials with far
    # higher numbers.
    for attempt in range(DUPLICATE_TRIES):
        drawn = space.random(number + (attempt << 20))
        if _key(drawn) not in earlier:
            return drawn
    return None


def _key(settings: Settings) -> bytes:
    return canonical_json(settings)


def _tpe(number: int, settings: SearchSettings, space: Space, state: SearchState) -> Iterator[Settings]:
    """Suggestions of Optuna's sampler, after all results so far."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions: list[Any] = ["maximize" if goal.mode == "max" else "minimize" for goal in settings.goals]
    study = optuna.create_study(directions=directions)
    study.add_trials(optuna_trials(settings, space, state))
    # Settings that depend on others are drawn in groups of those that trials have in common.
    is_conditional = any(dimension.when for dimension in space.dimensions.values())
    for attempt in range(TPE_TRIES):
        with warnings.catch_warnings():
            # `group` is experimental in Optuna.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(
                seed=(settings.seed * 1_000_003 + number * 101 + attempt) % 2**31,
                n_startup_trials=1,
                constant_liar=True,
                multivariate=True,
                group=is_conditional,
            )
        trial = study.ask()
        drawn: Settings = {}
        for name in space.dimensions:
            # A setting whose condition does not hold is not part of the trial.
            if space.is_active(name, drawn):
                drawn[name] = _suggest(trial, name, space)
        yield drawn
        # A refused suggestion teaches nothing: the next one comes from the same results.
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


def _suggest(trial: Any, name: str, space: Space) -> Any:
    dimension = space.dimensions[name]
    if dimension.choice is not None:
        # By index: a choice may be a list, and Optuna cannot store lists.
        return dimension.choice[trial.suggest_categorical(name, list(range(len(dimension.choice))))]
    if dimension.integers is not None:
        return trial.suggest_int(name, *dimension.integers)
    low, high = dimension.edges
    return trial.suggest_float(name, low, high, log=dimension.log_uniform is not None)


def optuna_trials(settings: SearchSettings, space: Space, state: SearchState) -> list[Any]:
    """All results as Optuna's trials, in the order of commits."""
    # Results of an earlier search come first, trials under way last.
    import optuna

    trials = [
        completed_trial(space, prior["settings"], prior["values"])
        for prior in state.prior_results
        if all(name in space.dimensions and space.dimensions[name].contains(v) for name, v in prior["settings"].items())
    ]
    # A promoted trial stands at its last commit.
    committed: dict[int, None] = {}
    for number in state.commit_order:
        trial = state.items[number].trial
        committed.pop(trial, None)
        committed[trial] = None
    worst = _worst(settings, state)
    for number in committed:
        result = _committed_trial(optuna, settings, space, state.trials[number], worst)
        if result is not None:
            trials.append(result)
    # `constant_liar` keeps the sampler away from settings under way.
    for number, running in sorted(state.trials.items()):
        if number not in committed:
            params, distributions = _params(optuna, space, running.settings)
            running_state = optuna.trial.TrialState.RUNNING
            trials.append(optuna.trial.create_trial(state=running_state, params=params, distributions=distributions))
    return trials


def _committed_trial(
    optuna: Any, settings: SearchSettings, space: Space, trial: TrialState, worst: list[float] | None
) -> Any | None:
    """A committed trial as Optuna's; None if it teaches nothing."""
    if trial.status == "failed":
        return None
    has_scores = trial.status != "nan" and all(score(trial.values, goal) is not None for goal in settings.goals)
    if settings.asha is None:
        # A trial without finite values counts as bad as the worst one.
        values = [trial.values[goal.metric] for goal in settings.goals] if has_scores else worst
        return None if values is None else completed_trial(space, trial.settings, values)
    # With ASHA every trial counts as pruned at its last commit.
    params, distributions = _params(optuna, space, trial.settings)
    # Of a curve the sampler reads the last value alone.
    metric = settings.goals[0].metric
    steps = [step for step, values in trial.curve.items() if metric in values and step <= trial.step]
    last = max(steps) if has_scores and steps else max(trial.step, 0)
    value = trial.curve[last][metric] if has_scores and steps else math.nan
    return optuna.trial.create_trial(
        state=optuna.trial.TrialState.PRUNED,
        params=params,
        distributions=distributions,
        intermediate_values={last: value},
    )


def _worst(settings: SearchSettings, state: SearchState) -> list[float] | None:
    """Worst finite value of each objective so far."""
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
    """A complete trial, as Optuna's."""
    import optuna

    params, distributions = _params(optuna, space, settings)
    return optuna.trial.create_trial(params=params, distributions=distributions, values=values)


def _params(optuna: Any, space: Space, settings: Settings) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and distributions of an Optuna trial."""
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
            # Rounding may put a value just outside its range.
            low, high = dimension.edges
            params[name] = min(max(value, low), high)
            distributions[name] = optuna.distributions.FloatDistribution(
                low, high, log=dimension.log_uniform is not None
            )
    return params, distributions
