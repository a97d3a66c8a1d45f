"""Which explored setting mattered how much: fANOVA over the trials of a search.

A random forest is fitted to the trials (Optuna's evaluator, on scikit-learn) and the variance of its prediction is
parted among the settings. The result says what moved the objective within the space that was tried, not what would
move it elsewhere, and little where trials are few. Not covered: why.
"""

from __future__ import annotations

from trainplane.search.config import SearchSettings
from trainplane.search.policy.samplers import completed_trial
from trainplane.search.policy.state import SearchState
from trainplane.search.report.summary import trial_scores
from trainplane.search.space import Space

LEAST = 4


def importance(settings: SearchSettings, space: Space, state: SearchState, *, goal: int = 0) -> dict[str, float]:
    """Share of the variance of an objective by setting, largest first, summing to 1; empty where trials are too few.

    Of a search that stops trials early, those at the rung with most trials are compared: values of one step.
    """
    objective = settings.goals[goal]
    rows = []
    step = _widest(state)
    for trial in state.trials.values():
        if trial.lineage or trial_scores(trial, settings.goals) is None:
            continue
        value = trial.curve.get(step, {}).get(objective.metric) if settings.asha is not None else None
        rows.append((trial.settings, trial.values[objective.metric] if value is None else value))
    varied = [name for name in space.dimensions if len({repr(drawn.get(name)) for drawn, _ in rows}) > 1]
    common = [name for name in varied if all(name in drawn for drawn, _ in rows)]
    if len(rows) < LEAST or not common or len({value for _, value in rows}) < 2:
        return {}
    if len(common) == 1:
        return {common[0]: 1.0}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if objective.mode == "max" else "minimize")
    study.add_trials([completed_trial(space, drawn, [value]) for drawn, value in rows])
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=common)
    return {name: float(share) for name, share in found.items()}


def _widest(state: SearchState) -> int:
    """The step at which most trials have a finite score, the later one of equals."""
    counts = {step: sum(score is not None for score in rung.values()) for step, rung in state.rungs.items()}
    return max(counts, key=lambda step: (counts[step], step), default=0)
