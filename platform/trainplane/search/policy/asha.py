"""PURE: successive halving without waiting, in the form that promotes.

A trial trains to a rung and rests. It goes on where it is among the best 1/eta of *all* that came as far, whenever that
turns out: whoever came first has no advantage, and a late one may still overtake. Values that are not finite are the
worst: such a trial counts as one that came, and never goes on. Where promotion has nothing left to do and nobody has
reached the end, the best of the highest rung goes on alone, so that a search ends with a trained model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

Rung = Mapping[int, float | None]
"""Scores by trial of all that reached it, larger is better; None: not finite."""


def rung_steps(*, steps: int, first: int | None, eta: int) -> list[int]:
    """Steps at which trials are judged, ascending; the last one is the whole training."""
    first = first or max(1, steps // eta**2)
    found = [first]
    while found[-1] * eta < steps:
        found.append(found[-1] * eta)
    return [*(rung for rung in found if rung < steps), steps]


def next_promotion(
    rungs: list[int], results: Mapping[int, Rung], promoted: Mapping[int, Collection[int]], *, eta: int
) -> tuple[int, int] | None:
    """(trial, index of the rung that it goes to), looked for from the highest rung down; None where nobody may."""
    for index in range(len(rungs) - 2, -1, -1):
        rung, gone = results.get(rungs[index], {}), promoted.get(rungs[index], ())
        for trial in ranking(rung)[: len(rung) // eta]:
            if trial not in gone:
                return trial, index + 1
    return None


def final_promotion(
    rungs: list[int], results: Mapping[int, Rung], promoted: Mapping[int, Collection[int]]
) -> tuple[int, int] | None:
    """Who goes on when nobody is next_promotion any more and nobody has a finite value at the end."""
    if ranking(results.get(rungs[-1], {})):
        return None
    for index in range(len(rungs) - 2, -1, -1):
        waiting = [
            trial for trial in ranking(results.get(rungs[index], {})) if trial not in promoted.get(rungs[index], ())
        ]
        if waiting:
            return waiting[0], index + 1
    return None


def ranking(rung: Rung) -> list[int]:
    """Trials with a finite score, the best first; of equals the earlier one."""
    finite = [(score, trial) for trial, score in rung.items() if score is not None]
    return [trial for score, trial in sorted(finite, key=lambda pair: (-pair[0], pair[1]))]
