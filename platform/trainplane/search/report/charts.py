"""Charts of a search, drawn by Matplotlib.

Each chart is a uint8 RGB array (H, W, 3). The best trial is red, the front orange, others grey; trials that were
stopped early are lighter. MLflow brings Matplotlib along. Unlike Optuna's charts, these use no windows and no global
state of `pyplot` (docs/decisions.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainplane.search.config import Dimension
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report.summary import Leaderboard, format_settings, format_value, trial_scores
from trainplane.tracking.images import Pixels

DPI = 110
# Sizes in inches.
WIDTH, HEIGHT, COLUMN, BAR = 9.0, 5.2, 1.5, 0.34
# Colors: text, grid, and trials by result.
INK, GRID, BEST, FRONT, OTHER, STOPPED = "#282828", "#e1e1e1", "#c81e28", "#e68214", "#6e6e6e", "#bebebe"
# Labelled curves; more labels would hide them.
MAX_LABELS = 8


class _Chart:
    """Axes on white."""

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


def trial_color(trial: TrialState, board: Leaderboard) -> str:
    """Color of a trial, by its result."""
    if board.best is not None and trial.number == board.best.number:
        return BEST
    if len(board.front) > 1 and any(trial.number == member.number for member in board.front):
        return FRONT
    return OTHER if trial.status == "finished" else STOPPED


def _line_style(trial: TrialState, board: Leaderboard) -> dict[str, Any]:
    color = trial_color(trial, board)
    return {"color": color, "linewidth": 2.4 if color == BEST else 1.1, "zorder": 4 if color == BEST else 2}


def learning_curves(state: SearchState, board: Leaderboard) -> Pixels:
    """Draws the first objective of every trial over its steps."""
    metric = state.goals[0].metric
    curves = {
        trial.number: sorted((s, v[metric]) for s, v in trial.curve.items() if math.isfinite(v.get(metric, math.nan)))
        for trial in state.trials.values()
    }
    chart = _Chart(f"{metric} of {len(curves)} trials; red: the best, lighter: stopped early")
    chart.grid("steps", metric)
    # The best trials last, on top of the others.
    for trial in reversed(board.ranked):
        if not (curve := curves[trial.number]):
            continue
        steps, values = zip(*curve, strict=True)
        # A marker shows where the curve ends.
        chart.axes.plot(steps, values, marker="o", markevery=[-1], markersize=4, **_line_style(trial, board))
    for trial in board.ranked[:MAX_LABELS]:
        if curve := curves[trial.number]:
            _label(chart, curve[-1], str(trial.number), trial_color(trial, board))
    return chart.pixels()


def _label(chart: _Chart, point: tuple[float, float], text: str, color: str, *, left: bool = False) -> None:
    chart.axes.annotate(
        text,
        point,
        xytext=(-6 if left else 6, 0),
        textcoords="offset points",
        ha="right" if left else "left",
        va="center",
        fontsize=8,
        color=color,
        zorder=5,
    )


def pareto_front(state: SearchState, board: Leaderboard) -> Pixels:
    """Draws all trials by two objectives, and the front."""
    first, second = state.goals[0].metric, state.goals[1].metric
    valued = [trial for trial in board.ranked if trial_scores(trial, state.goals) is not None]
    others = "" if len(state.goals) == 2 else f" (of {len(state.goals)} objectives)"
    goals = f"{state.goals[0].mode} {first}, {state.goals[1].mode} {second}{others}"
    chart = _Chart(f"{goals}; orange: the front, red: its knee")
    chart.grid(second, first)
    front = sorted((trial.values[second], trial.values[first]) for trial in board.front)
    # The front of three objectives is no line in a plane of two.
    if len(front) > 1 and len(state.goals) == 2:
        chart.axes.plot(*zip(*front, strict=True), color=FRONT, linewidth=1.6, zorder=2)
    # Labels point to the middle, so that they stay on the chart.
    middle = float(np.mean([trial.values[second] for trial in valued])) if valued else 0.0
    for trial in reversed(valued):
        point = (trial.values[second], trial.values[first])
        chart.axes.plot(*point, marker="o", markersize=7, color=trial_color(trial, board), zorder=3)
        label = f"{trial.number}: {format_settings(trial.settings)}" if point in front else str(trial.number)
        _label(chart, point, label, INK, left=point[0] > middle)
    return chart.pixels()


@dataclass(frozen=True)
class _Column:
    """One axis of parallel coordinates."""

    name: str  # Setting or objective
    positions: dict[int, float]  # Position of each trial on the axis, 0 to 1
    low: str  # Label of the lower end
    high: str  # Label of the upper end

    @staticmethod
    def of_setting(name: str, dimension: Dimension, trials: Sequence[TrialState]) -> _Column:
        drawn = {trial.number: trial.settings[name] for trial in trials if name in trial.settings}
        if dimension.choice is None:
            values = {number: float(value) for number, value in drawn.items()}
            return _Column.of_numbers(name, values, log=dimension.log_uniform is not None)
        # Choices are spread evenly over the axis.
        choices = list(dimension.choice)
        last = max(1, len(choices) - 1)
        positions = {number: choices.index(value) / last for number, value in drawn.items() if value in choices}
        return _Column(name, positions, format_value(choices[0]), format_value(choices[-1]))

    @staticmethod
    def of_numbers(name: str, values: dict[int, float], *, log: bool = False) -> _Column:
        low, high = min(values.values(), default=0.0), max(values.values(), default=0.0)
        # A range drawn on a logarithmic scale is shown on one, too.
        scale = math.log if log and low > 0 else float
        span = scale(high) - scale(low)
        positions = {number: (scale(value) - scale(low)) / span if span else 0.5 for number, value in values.items()}
        return _Column(name, positions, f"{low:.3g}", f"{high:.3g}")


def parallel_coordinates(state: SearchState, board: Leaderboard, dimensions: Mapping[str, Dimension]) -> Pixels:
    """Draws each trial through settings and objectives, better ones darker."""
    valued = [trial for trial in board.ranked if trial_scores(trial, state.goals) is not None]
    columns = [_Column.of_setting(name, dimension, valued) for name, dimension in dimensions.items()]
    for goal in state.goals:
        columns.append(_Column.of_numbers(goal.metric, {trial.number: trial.values[goal.metric] for trial in valued}))
    title = "settings and objectives of every trial; red: the best, the darker the better"
    chart = _Chart(title, width=max(WIDTH, COLUMN * len(columns)))
    axes = chart.axes
    axes.spines[:].set_visible(False)
    axes.set_yticks([])
    axes.set_xticks(range(len(columns)), [f"{column.low}\n{column.name}" for column in columns], fontsize=9)
    axes.tick_params(length=0)
    # One vertical line for each column, its largest value on top.
    for at, column in enumerate(columns):
        axes.axvline(at, color=INK, linewidth=1)
        axes.text(at, 1.02, column.high, ha="center", va="bottom", fontsize=9, color=INK)
    axes.set_ylim(-0.02, 1.08)
    # A trial has no position on the axis of a setting that it did not explore; its line passes by.
    for rank, trial in reversed(list(enumerate(valued))):
        line = [
            (at, column.positions[trial.number])
            for at, column in enumerate(columns)
            if trial.number in column.positions
        ]
        style = _line_style(trial, board)
        if style["color"] in (OTHER, STOPPED):
            style["color"] = str(0.35 + 0.5 * rank / len(valued))
        axes.plot(*zip(*line, strict=True), **style)
    return chart.pixels()


def importances(shares: Mapping[str, float], metric: str, *, doubt: str | None = None) -> Pixels:
    """Draws each setting's share of an objective's variance.

    A `doubt` is told, and the bars are pale.
    """
    title = f"what moved {metric} (fANOVA, share of its variance)"
    chart = _Chart(f"{title}\n{doubt}" if doubt else title, height=(1.3 if doubt else 1.1) + BAR * len(shares))
    percents = [100 * share for share in shares.values()]
    bars = chart.axes.barh(list(shares), percents, color=STOPPED if doubt else OTHER, height=0.66)
    chart.axes.bar_label(bars, fmt="%.0f %%", padding=4, fontsize=9, color=INK)
    chart.axes.invert_yaxis()
    # Room for the labels behind the bars.
    chart.axes.set_xlim(0, max([*percents, 1.0]) * 1.12)
    chart.axes.set_xlabel("% of the variance", color=INK)
    return chart.pixels()
