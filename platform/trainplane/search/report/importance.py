"""Importance of explored settings: fANOVA over the trials.

A random forest is fitted to the trials (Optuna's evaluator, on scikit-learn), and the variance of its prediction is
divided among the settings. It says nothing about values outside the explored space, and of few trials it is chance
(`doubt`).
"""

from __future__ import annotations

from trainplane.search.config import SearchSettings
from trainplane.search.policy.samplers import completed_trial
from trainplane.search.policy.state import SearchState
from trainplane.search.report.summary import trial_scores
from trainplane.search.space import Space

MIN_TRIALS = 4
# A forest of fewer trials a setting splits by chance: with shuffled results it then names a winner just as surely.
TRIALS_PER_SETTING = 10


def doubt(trials: int, settings: int) -> str | None:
    """Sentence about too few trials; None with enough."""
    needed = TRIALS_PER_SETTING * settings
    if trials >= needed:
        return None
    return f"{trials} trials are too few to say which of {settings} settings matter; {needed} would do"


def importance(settings: SearchSettings, space: Space, state: SearchState, *, goal: int = 0) -> dict[str, float]:
    """Share of an objective's variance by setting, largest first.

    Trials are compared at the rung that most of them reached. The shares sum to 1; none with too few trials.
    """
    objective = settings.goals[goal]
    rows = []
    step = _widest_rung(state)
    for trial in state.trials.values():
        # A trial with exploits was trained with several settings.
        if trial.lineage or trial_scores(trial, settings.goals) is None:
            continue
        value = trial.curve.get(step, {}).get(objective.metric) if settings.asha is not None else None
        rows.append((trial.settings, trial.values[objective.metric] if value is None else value))
    # fANOVA needs settings that vary and that every trial has.
    varied = [name for name in space.dimensions if len({repr(drawn.get(name)) for drawn, _ in rows}) > 1]
    common = [name for name in varied if all(name in drawn for drawn, _ in rows)]
    if len(rows) < MIN_TRIALS or not common or len({value for _, value in rows}) < 2:
        return {}
    if len(common) == 1:
        return {common[0]: 1.0}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if objective.mode == "max" else "minimize")
    study.add_trials([completed_trial(space, drawn, [value]) for drawn, value in rows])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator, params=common)
    return {name: float(share) for name, share in shares.items()}


def _widest_rung(state: SearchState) -> int:
    # Step at which most trials have a finite score. The later one, if several have equally many.
    counts = {step: sum(score is not None for score in rung.values()) for step, rung in state.rungs.items()}
    return max(counts, key=lambda step: (counts[step], step), default=0)
