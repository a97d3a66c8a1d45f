"""Pictures of a search: learning curves, the Pareto front, parallel coordinates, importance of settings.

Values in, arrays out: uint8 RGB (H, W, 3), drawn with Pillow's bitmap font, so that the same search gives the same
bytes on every machine. The best trial is red, the front orange, others grey; lighter ones were stopped early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from trainplane.search.report import Standings, scores_of, short
from trainplane.search.settings import Dimension
from trainplane.search.state import State, TrialState
from trainplane.tracking.gallery import Pixels

WIDTH, HEIGHT = 900, 520
LEFT, RIGHT, TOP, BOTTOM = 90, 30, 40, 50
INK, GRID, BEST, FRONT, OTHER, STOPPED = (
    (40, 40, 40),
    (225, 225, 225),
    (200, 30, 40),
    (230, 130, 20),
    (110,) * 3,
    (190,) * 3,
)


@dataclass(frozen=True)
class Axis:
    """Values along one side of a picture. `low` and `high` differ."""

    name: str
    low: float
    high: float
    log: bool = False

    @staticmethod
    def over(name: str, values: Sequence[float], *, log: bool = False) -> Axis:
        finite = [value for value in values if math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        margin = 0.0 if log else 0.04 * (high - low)
        if high == low:
            low, high, log = low - 0.5, high + 0.5, False
        return Axis(name, low - margin, high + margin, log)

    def place(self, value: float) -> float:
        """Where a value is, 0 to 1."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[float]:
        parts = [index / (count - 1) for index in range(count)]
        if self.log:
            return [self.low * (self.high / self.low) ** part for part in parts]
        return [self.low + (self.high - self.low) * part for part in parts]


class Canvas:
    """A white picture with a frame to draw in."""

    def __init__(self, title: str, *, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.image = Image.new("RGB", (width, height), (255, 255, 255))
        self.draw = ImageDraw.Draw(self.image)
        self.box = (LEFT, TOP, width - RIGHT, height - BOTTOM)
        self.text((LEFT, 14), title)

    def text(self, place: tuple[float, float], words: str, *, right: bool = False, color: Any = INK) -> None:
        font = ImageFont.load_default_imagefont()
        words = words.encode("latin-1", errors="replace").decode("latin-1")
        x, y = place
        self.draw.text((x - (self.draw.textlength(words, font=font) if right else 0), y), words, fill=color, font=font)

    def axes(self, x: Axis, y: Axis) -> None:
        """Lines and numbers along the frame."""
        left, top, right, bottom = self.box
        for value in x.ticks():
            at = left + x.place(value) * (right - left)
            self.draw.line([(at, top), (at, bottom)], fill=GRID)
            self.text((at - 14, bottom + 6), short(float(value)))
        for value in y.ticks():
            at = bottom - y.place(value) * (bottom - top)
            self.draw.line([(left, at), (right, at)], fill=GRID)
            self.text((left - 8, at - 6), short(float(value)), right=True)
        self.draw.rectangle(self.box, outline=INK)
        self.text((right, bottom + 24), x.name, right=True)
        self.text((4, top - 18), y.name)

    def point(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a place in the frame, 0 to 1 each way, from below left."""
        left, top, right, bottom = self.box
        return left + x * (right - left), bottom - y * (bottom - top)

    def dot(self, place: tuple[float, float], color: Any, radius: float = 4) -> None:
        x, y = place
        self.draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)

    def pixels(self) -> Pixels:
        return np.asarray(self.image)


def color_of(trial: TrialState, found: Standings) -> Any:
    """Red: the best; orange: on the front; grey: others, lighter where stopped early."""
    if found.best is not None and trial.number == found.best.number:
        return BEST
    if len(found.front) > 1 and any(trial.number == one.number for one in found.front):
        return FRONT
    return OTHER if trial.standing == "finished" else STOPPED


def learning_curves(state: State, found: Standings) -> Pixels:
    """The first objective of every trial over its steps."""
    metric = state.goals[0].metric
    curves = {
        trial.number: sorted((s, v[metric]) for s, v in trial.curve.items() if math.isfinite(v.get(metric, math.nan)))
        for trial in state.trials.values()
    }
    points = [point for curve in curves.values() for point in curve]
    canvas = Canvas(f"{metric} of {len(curves)} trials; red: the best")
    x = Axis.over("steps", [float(step) for step, _ in points])
    y = Axis.over(metric, [value for _, value in points])
    canvas.axes(x, y)
    for trial in reversed(found.ranked):
        line = [canvas.point(x.place(step), y.place(value)) for step, value in curves[trial.number]]
        if len(line) > 1:
            canvas.draw.line(line, fill=color_of(trial, found), width=3 if trial is found.best else 1)
        for place in line[-1:]:
            canvas.dot(place, color_of(trial, found), 3)
            canvas.text((place[0] + 4, place[1] - 6), str(trial.number))
    return canvas.pixels()


def pareto_front(state: State, found: Standings) -> Pixels:
    """Every trial by its first two objectives, and the line of those that nothing beats."""
    first, second = state.goals[0].metric, state.goals[1].metric
    valued = [trial for trial in found.ranked if scores_of(trial, state.goals) is not None]
    others = "" if len(state.goals) == 2 else f" (of {len(state.goals)} objectives)"
    goals = f"{state.goals[0].mode} {first}, {state.goals[1].mode} {second}{others}"
    canvas = Canvas(f"{goals}; orange: the front, red: its knee")
    x = Axis.over(second, [trial.values[second] for trial in valued])
    y = Axis.over(first, [trial.values[first] for trial in valued])
    canvas.axes(x, y)
    front = sorted((trial.values[second], trial.values[first]) for trial in found.front)
    line = [canvas.point(x.place(a), y.place(b)) for a, b in front]
    # The front of three objectives is no line in a plane of two.
    if len(line) > 1 and len(state.goals) == 2:
        canvas.draw.line(line, fill=FRONT, width=2)
    for trial in reversed(valued):
        place = canvas.point(x.place(trial.values[second]), y.place(trial.values[first]))
        canvas.dot(place, color_of(trial, found), 5)
        settings = ", ".join(f"{name.rpartition('.')[2]}={short(value)}" for name, value in trial.settings.items())
        label = f"{trial.number}: {settings}" if (trial.values[second], trial.values[first]) in front else trial.number
        right = place[0] > 0.7 * WIDTH
        canvas.text((place[0] - 8 if right else place[0] + 8, place[1] - 6), str(label), right=right)
    return canvas.pixels()


@dataclass(frozen=True)
class _Column:
    """One upright of parallel coordinates: values by trial, and what stands at its ends."""

    axis: Axis
    values: dict[int, float]
    low: str
    high: str

    @staticmethod
    def of_setting(name: str, dimension: Dimension, trials: Sequence[TrialState]) -> _Column:
        drawn = {trial.number: trial.settings[name] for trial in trials if name in trial.settings}
        if dimension.choice is None:
            values = {number: float(value) for number, value in drawn.items()}
            return _Column.of_numbers(name, values, log=dimension.log_uniform is not None)
        choices = list(dimension.choice)
        values = {number: float(choices.index(value)) for number, value in drawn.items() if value in choices}
        axis = Axis.over(name, [0.0, float(len(choices) - 1)])
        return _Column(axis, values, short(choices[0]), short(choices[-1]))

    @staticmethod
    def of_numbers(name: str, values: dict[int, float], *, log: bool = False) -> _Column:
        axis = Axis.over(name, list(values.values()), log=log)
        return _Column(axis, values, short(axis.low), short(axis.high))


def parallel_coordinates(state: State, found: Standings, dimensions: Mapping[str, Dimension]) -> Pixels:
    """A line for each trial through its settings to its objectives."""
    valued = [trial for trial in found.ranked if scores_of(trial, state.goals) is not None]
    columns = [_Column.of_setting(name, dimension, valued) for name, dimension in dimensions.items()]
    for goal in state.goals:
        values = {trial.number: trial.values[goal.metric] for trial in valued}
        columns.append(_Column.of_numbers(goal.metric, values))
    canvas = Canvas("settings and objectives of every trial; red: the best", width=max(WIDTH, 150 * len(columns)))
    places = [index / (len(columns) - 1) for index in range(len(columns))]
    for index, (at, column) in enumerate(zip(places, columns, strict=True)):
        _upright(canvas, at, column, name_lower=index % 2 == 1, is_last=index == len(columns) - 1)
    for trial in reversed(valued):
        line = [
            canvas.point(at, column.axis.place(column.values[trial.number]))
            for at, column in zip(places, columns, strict=True)
            if trial.number in column.values
        ]
        if len(line) > 1:
            canvas.draw.line(line, fill=color_of(trial, found), width=3 if trial is found.best else 1)
    return canvas.pixels()


def _upright(canvas: Canvas, at: float, column: _Column, *, name_lower: bool, is_last: bool) -> None:
    canvas.draw.line([canvas.point(at, 0), canvas.point(at, 1)], fill=INK)
    x, bottom = canvas.point(at, 0)
    canvas.text((x if is_last else x - 40, bottom + (34 if name_lower else 22)), column.axis.name, right=is_last)
    beside = x - 4 if is_last else x + 4
    canvas.text((beside, bottom + 4), column.low, right=is_last)
    canvas.text((beside, canvas.point(at, 1)[1] - 12), column.high, right=is_last)


def importances(shares: Mapping[str, float], metric: str) -> Pixels:
    """A bar for each setting: its share of the variance of the objective."""
    canvas = Canvas(f"what moved {metric} (fANOVA, share of its variance)", height=TOP + BOTTOM + 34 * len(shares))
    left, top, right, _ = canvas.box
    for index, (name, share) in enumerate(shares.items()):
        y = top + 34 * index
        canvas.text((left + 80, y + 8), name, right=True)
        canvas.draw.rectangle([left + 90, y + 4, left + 90 + share * (right - left - 160), y + 22], fill=OTHER)
        canvas.text((left + 96 + share * (right - left - 160), y + 8), f"{100 * share:.0f} %")
    return canvas.pixels()
