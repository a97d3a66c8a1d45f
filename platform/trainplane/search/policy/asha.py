"""Asynchronous successive halving (ASHA), in the form that promotes.

Pure: no I/O. A trial trains to a rung and rests. It is promoted as soon as it is among the best 1/eta of *all* trials
that came as far, so first arrivals have no advantage. Values that are not finite are the worst: such a trial counts as
an arrival and is never promoted. Where no promotion is left and no trial has reached the end, the best of the highest
rung continues alone, so that a search ends with a trained model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

Rung = Mapping[int, float | None]
"""Scores by trial of all that reached it, larger is better; None: not finite."""


def rung_steps(*, steps: int, first: int | None, eta: int) -> list[int]:
    """Steps at which trials are compared, the last step included."""
    rungs = [first or max(1, steps // eta**2)]
    # Each rung has eta times the steps of the one below it.
    while rungs[-1] * eta < steps:
        rungs.append(rungs[-1] * eta)
    # The last rung is the end, also where no power of eta meets it.
    return [*(rung for rung in rungs if rung < steps), steps]


def next_promotion(
    rungs: list[int], results: Mapping[int, Rung], promoted: Mapping[int, Collection[int]], *, eta: int
) -> tuple[int, int] | None:
    """Next trial to promote and its rung's index, highest first.

    `promoted` has the trials that were promoted from each step. None where no trial may be.
    """
    for index in range(len(rungs) - 2, -1, -1):
        rung, earlier = results.get(rungs[index], {}), promoted.get(rungs[index], ())
        # The best 1/eta of all arrivals, promoted or not.
        for trial in ranking(rung)[: len(rung) // eta]:
            if trial not in earlier:
                return trial, index + 1
    return None


def final_promotion(
    rungs: list[int], results: Mapping[int, Rung], promoted: Mapping[int, Collection[int]]
) -> tuple[int, int] | None:
    """Best resting trial and index of its next rung.

    Used when no trial is promotable any more. None where a trial has a finite value at the end.
    """
    # A complete training with a finite score exists.
    if ranking(results.get(rungs[-1], {})):
        return None
    for index in range(len(rungs) - 2, -1, -1):
        for trial in ranking(results.get(rungs[index], {})):
            if trial not in promoted.get(rungs[index], ()):
                return trial, index + 1
    return None


def ranking(rung: Rung) -> list[int]:
    """Trials with a finite score, best first; ties by number."""
    finite = [(score, trial) for trial, score in rung.items() if score is not None]
    return [trial for score, trial in sorted(finite, key=lambda pair: (-pair[0], pair[1]))]
