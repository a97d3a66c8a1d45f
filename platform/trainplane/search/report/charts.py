"""Pictures of a search: learning curves, the Pareto front, parallel coordinates, importance of settings.

Values in, arrays out: uint8 RGB (H, W, 3). The best trial is red, the front orange, others grey; lighter ones were
stopped early. Drawn by Matplotlib, which MLflow brings along, without its windows and without its global state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainplane.search.config import Dimension
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report.summary import Leaderboard, format_value, trial_scores
from trainplane.tracking.images import Pixels

DPI = 110
# Inches.
WIDTH, HEIGHT, COLUMN, BAR = 9.0, 5.2, 1.5, 0.34
INK, GRID, BEST, FRONT, OTHER, STOPPED = "#282828", "#e1e1e1", "#c81e28", "#e68214", "#6e6e6e", "#bebebe"
# Names beside more lines than that hide them.
NAMED = 8


class _Picture:
    """One set of axes on white."""

    def __init__(self, title: str, *, width: float = WIDTH, height: float = HEIGHT) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        self._canvas = FigureCanvasAgg(self.figure)
        self.axes: Any = self.figure.subplots()
        self.axes.set_title(title, loc="left", fontsize=11, color=INK)
        self.axes.spines[["top", "right"]].set_visible(False)
        self.axes.tick_params(labelsize=9, colors=INK)

    def grid(self, x: str, y: str) -> None:
        self.axes.set_xlabel(x, color=INK)
        self.axes.set_ylabel(y, color=INK)
        self.axes.grid(color=GRID, linewidth=0.8)
        self.axes.set_axisbelow(True)

    def pixels(self) -> Pixels:
        self._canvas.draw()
        return np.asarray(self._canvas.buffer_rgba())[:, :, :3].copy()


def color_of(trial: TrialState, found: Leaderboard) -> str:
    """Red: the best; orange: on the front; grey: others, lighter where stopped early."""
    if found.best is not None and trial.number == found.best.number:
        return BEST
    if len(found.front) > 1 and any(trial.number == one.number for one in found.front):
        return FRONT
    return OTHER if trial.status == "finished" else STOPPED


def _line_of(trial: TrialState, found: Leaderboard) -> dict[str, Any]:
    color = color_of(trial, found)
    return {"color": color, "linewidth": 2.4 if color == BEST else 1.1, "zorder": 4 if color == BEST else 2}


def learning_curves(state: SearchState, found: Leaderboard) -> Pixels:
    """The first objective of every trial over its steps."""
    metric = state.goals[0].metric
    curves = {
        trial.number: sorted((s, v[metric]) for s, v in trial.curve.items() if math.isfinite(v.get(metric, math.nan)))
        for trial in state.trials.values()
    }
    picture = _Picture(f"{metric} of {len(curves)} trials; red: the best, lighter: stopped early")
    picture.grid("steps", metric)
    for trial in reversed(found.ranked):
        if not (curve := curves[trial.number]):
            continue
        steps, values = zip(*curve, strict=True)
        picture.axes.plot(steps, values, marker="o", markevery=[-1], markersize=4, **_line_of(trial, found))
    for trial in found.ranked[:NAMED]:
        if curve := curves[trial.number]:
            _name(picture, curve[-1], str(trial.number), color_of(trial, found))
    return picture.pixels()


def _name(picture: _Picture, place: tuple[float, float], words: str, color: str, *, left: bool = False) -> None:
    picture.axes.annotate(
        words,
        place,
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        color=color,
        zorder=5,
    )


def pareto_front(state: SearchState, found: Leaderboard) -> Pixels:
    """Every trial by its first two objectives, and the line of those that nothing beats."""
    first, second = state.goals[0].metric, state.goals[1].metric
    valued = [trial for trial in found.ranked if trial_scores(trial, state.goals) is not None]
    others = "" if len(state.goals) == 2 else f" (of {len(state.goals)} objectives)"
    goals = f"{state.goals[0].mode} {first}, {state.goals[1].mode} {second}{others}"
    picture = _Picture(f"{goals}; orange: the front, red: its knee")
    picture.grid(second, first)
    front = sorted((trial.values[second], trial.values[first]) for trial in found.front)
    # The front of three objectives is no line in a plane of two.
    if len(front) > 1 and len(state.goals) == 2:
        picture.axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=1.6, zorder=2)
    middle = float(np.mean([trial.values[second] for trial in valued])) if valued else 0.0
    for trial in reversed(valued):
        place = (trial.values[second], trial.values[first])
        picture.axes.plot(*place, marker="o", markersize=7, color=color_of(trial, found), zorder=3)
        settings = ", ".join(
            f"{name.rpartition('.')[2]}={format_value(value)}" for name, value in trial.settings.items()
        )
        label = f"{trial.number}: {settings}" if place in front else str(trial.number)
        _name(picture, place, label, INK, left=place[0] > middle)
    return picture.pixels()


@dataclass(frozen=True)
class _Column:
    """One upright of parallel coordinates: places of the trials on it, 0 to 1, and what stands at its ends."""

    name: str
    places: dict[int, float]
    low: str
    high: str

    @staticmethod
    def of_setting(name: str, dimension: Dimension, trials: Sequence[TrialState]) -> _Column:
        drawn = {trial.number: trial.settings[name] for trial in trials if name in trial.settings}
        if dimension.choice is None:
            values = {number: float(value) for number, value in drawn.items()}
            return _Column.of_numbers(name, values, log=dimension.log_uniform is not None)
        choices = list(dimension.choice)
        last = max(1, len(choices) - 1)
        places = {number: choices.index(value) / last for number, value in drawn.items() if value in choices}
        return _Column(name, places, format_value(choices[0]), format_value(choices[-1]))

    @staticmethod
    def of_numbers(name: str, values: dict[int, float], *, log: bool = False) -> _Column:
        low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        scale = math.log if log and low > 0 else float
        span = scale(high) - scale(low)
        places = {number: (scale(value) - scale(low)) / span if span else 0.5 for number, value in values.items()}
        return _Column(name, places, f"{low:.3g}", f"{high:.3g}")


def parallel_coordinates(state: SearchState, found: Leaderboard, dimensions: Mapping[str, Dimension]) -> Pixels:
    """A line for each trial through its settings to its objectives; the darker, the better it ranks."""
    valued = [trial for trial in found.ranked if trial_scores(trial, state.goals) is not None]
    columns = [_Column.of_setting(name, dimension, valued) for name, dimension in dimensions.items()]
    for goal in state.goals:
        columns.append(_Column.of_numbers(goal.metric, {trial.number: trial.values[goal.metric] for trial in valued}))
    title = "settings and objectives of every trial; red: the best, the darker the better"
    picture = _Picture(title, width=max(WIDTH, COLUMN * len(columns)))
    axes = picture.axes
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(range(len(columns)), [f"{one.low}\n{one.name}" for one in columns], fontsize=9)
    axes.tick_params(length=0)
    for at, column in enumerate(columns):
        axes.axvline(at, color=INK, linewidth=1)
        axes.text(at, 1.02, column.high, ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_ylim(-0.02, 1.08)
    for rank, trial in reversed(list(enumerate(valued))):
        line = [(at, column.places[trial.number]) for at, column in enumerate(columns) if trial.number in column.places]
        style = _line_of(trial, found)
        if style["color"] in (OTHER, STOPPED):
            style["color"] = str(0.35 + 0.5 * rank / len(valued))
        axes.plot(*zip(*line, strict=True), **style)
    return picture.pixels()


def importances(shares: Mapping[str, float], metric: str) -> Pixels:
    """A bar for each setting: its share of the variance of the objective."""
    picture = _Picture(f"what moved {metric} (fANOVA, share of its variance)", height=1.1 + BAR * len(shares))
    percents = [100 * share for share in shares.values()]
    bars = picture.axes.barh(list(shares), percents, color=OTHER, height=0.66)
    picture.axes.bar_label(bars, fmt="%.0f %%", padding=4, fontsize=9, color=INK)
    picture.axes.invert_yaxis()
    picture.axes.set_xlim(0, max([*percents, 1.0]) * 1.12)
    picture.axes.set_xlabel("% of the variance", color=INK)
    return picture.pixels()
