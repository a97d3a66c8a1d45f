"""Writes a run's curves for other programs: CSV, TensorBoard."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trainplane.errors import UserError
from trainplane.tracking.query.curves import Point

FORMATS = ("csv", "tensorboard")
_COLUMNS = ("metric", "step", "time", "value")


def write_csv(points: Iterable[Point], path: Path) -> int:
    """Writes a row a point; returns their number."""
    count = 0
    # Another program must never read half a file.
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for point in points:
            writer.writerow((point.metric, point.step, f"{point.time_ms / 1000:.3f}", repr(point.value)))
            count += 1
    unfinished.replace(path)
    return count


def write_tensorboard(points: Iterable[Point], settings: dict[str, Any], folder: Path) -> int:
    """Writes event files; returns the number of points.

    Raises:
        UserError: The folder has event files.
    """
    # Comes with Ray Tune.
    from tensorboardX import SummaryWriter

    # TensorBoard joins all event files of a folder to one run.
    if any(folder.glob("events.out.tfevents.*")):
        raise UserError(f"{folder} has event files already, and TensorBoard would join them; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    with SummaryWriter(str(folder)) as writer:
        writer.add_text("settings", _settings_table(settings), 0)
        for point in points:
            writer.add_scalar(point.metric, point.value, point.step, walltime=point.time_ms / 1000)
            count += 1
    return count


def _settings_table(settings: dict[str, Any]) -> str:
    """Settings as a Markdown table, which TensorBoard shows."""
    rows = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in sorted(settings.items())]
    return "\n".join(["| setting | value |", "|---|---|", *rows])
