"""What MLflow keeps of a search: on its parent run the leaderboard, ledger and pictures; on each trial how it stood.

What cannot be drawn or fetched takes nothing from the search: it is said and left out. `tracking.results` sends it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainplane.cluster.context import Context
from trainplane.errors import RunFailed, UserError
from trainplane.markdown import markdown_table
from trainplane.search.policy import budget
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report import charts, summary
from trainplane.search.report.importance import importance
from trainplane.search.run.launch import Search, cost_rates, trial_resources
from trainplane.tracking.client import reason
from trainplane.tracking.images import Pixels, contact_sheet
from trainplane.tracking.results import RunResult

SHEET_TRIALS = 12
BOARD_TRIALS = 20
# Of a tag, which a description is.
NOTE_CHARACTERS = 5000


def search_record(context: Context, run_id: str, search: Search, state: SearchState) -> RunResult:
    """The record of a search that ended; its files are written below HOME/searches."""
    found = summary.leaderboard(state)
    best = found.best
    assert best is not None
    standing = {number: trial.status for number, trial in state.trials.items()}
    spent = budget.cost_report(state.usage, standing, cost_rates(trial_resources(search.train, gpus=0.0), search.train))
    shares = {
        goal.metric: importance(search.settings, search.space, state, goal=n) for n, goal in enumerate(state.goals)
    }
    folder = context.home / "searches" / run_id
    (folder / "search").mkdir(parents=True, exist_ok=True)
    (folder / "leaderboard.csv").write_text(leaderboard_csv(found.ranked, state), encoding="utf-8")
    for file, values in {"spent.json": spent, "importance.json": shares}.items():
        (folder / file).write_text(json.dumps(values, indent=2), encoding="utf-8")
    for name, draw in chart_drawers(search, state, found, shares, context).items():
        if (pixels := _attempt(name, draw)) is not None:
            Image.fromarray(pixels).save(folder / "search" / f"{name}.png")
    return RunResult(
        run_id,
        folder,
        metrics={
            **{f"best/{name}": value for name, value in best.values.items()},
            "spent/steps": float(spent["steps"]),
            "spent/cpu_hours": spent["cpu_seconds"] / 3600,
        },
        tags={
            "trainplane.best_run": best.run_id,
            "trainplane.best_trial": str(best.number),
            "mlflow.note.content": description(state, found, spent),
        },
        run_tags={
            trial.run_id: {"trainplane.standing": trial.status} for trial in state.trials.values() if trial.run_id
        },
    )


def description(state: SearchState, found: summary.Leaderboard, spent: Mapping[str, Any]) -> str:
    """What the parent run's page says of the search, in Markdown: what it cost, and the best trials, as many as fit."""
    for shown in range(BOARD_TRIALS, -1, -5):
        table = _board(state, found, shown)
        board = markdown_table(table["columns"], table["rows"])
        more = (
            f" The best {shown} of {len(found.ranked)}, all in `leaderboard.csv`:" if len(found.ranked) > shown else ""
        )
        text = (
            f"{cost_text(spent)}; ended: {state.end_reason}.{more}\n\n{board}\n\nPictures: artifacts, below `search/`."
        )
        if len(text) <= NOTE_CHARACTERS:
            break
    return text


def _board(state: SearchState, found: summary.Leaderboard, count: int) -> dict[str, Any]:
    names = list(dict.fromkeys(name for trial in found.ranked for name in trial.settings))
    goals = [goal.metric for goal in state.goals]
    rows = [
        [
            f"**{trial.number}**" if trial is found.best else trial.number,
            *(summary.format_value(trial.values.get(goal)) for goal in goals),
            trial.step,
            trial.status,
            *(summary.format_value(trial.settings.get(name)) for name in names),
        ]
        for trial in found.ranked[:count]
    ]
    return {"columns": ["trial", *goals, "steps", "standing", *names], "rows": rows}


def cost_text(spent: Mapping[str, Any]) -> str:
    """A ledger (`budget.cost_report`) in one line."""
    waste = ", ".join(f"{cause} {part['steps']:,.0f}" for cause, part in spent["waste"].items() if part["steps"])
    money = f", {spent['money']:g} in money" if spent["money"] is not None else ""
    return (
        f"spent {spent['steps']:,} steps, {spent['cpu_seconds'] / 3600:.3f} CPU-hours"
        + (f", {spent['gpu_seconds'] / 3600:.3f} GPU-hours" if spent["gpu_seconds"] else "")
        + f"{money}; of these steps: {waste or 'none for nothing'}"
    )


def chart_drawers(
    search: Search,
    state: SearchState,
    found: summary.Leaderboard,
    shares: dict[str, dict[str, float]],
    context: Context | None,
) -> dict[str, Callable[[], Pixels]]:
    """How to draw each picture of the parent run, by name."""
    pictures: dict[str, Callable[[], Pixels]] = {
        "learning_curves": lambda: charts.learning_curves(state, found),
        "parallel_coordinates": lambda: charts.parallel_coordinates(state, found, search.space.dimensions),
    }
    if len(state.goals) > 1:
        pictures["pareto_front"] = lambda: charts.pareto_front(state, found)
    for metric, parts in shares.items():
        if parts:
            name = f"importance_{re.sub(r'[^a-z0-9]+', '_', metric.lower())}"
            pictures[name] = lambda parts=parts, metric=metric: charts.importances(parts, metric)  # type: ignore[misc]
    painted = [trial for trial in found.ranked if trial.run_id][:SHEET_TRIALS]
    if context is not None and painted:
        pictures["contact_sheet"] = lambda: sheet(painted, state, context)
    return pictures


def _attempt(name: str, draw: Callable[[], Pixels]) -> Pixels | None:
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    try:
        return draw()
    except (MlflowException, BotoCoreError, ClientError, UserError, RunFailed, OSError, LookupError) as error:
        again = "the same command, typed again, draws it"
        print(f"isnet: the picture {name} is left out ({reason(error)}); {again}", file=sys.stderr)
        return None


def sheet(trials: Sequence[TrialState], state: SearchState, context: Context) -> Pixels:
    """What each trial paints: its last gallery picture of the first held-out photo, the best trial first."""
    client, strips = context.tracking_server.client, []
    with tempfile.TemporaryDirectory(prefix="isnet-sheet-") as folder:
        for trial in trials:
            newest = _newest_picture(client, trial.run_id)
            if newest is None:
                continue
            place = client.download_artifacts(trial.run_id, newest, folder)
            with Image.open(Path(place)) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            values = ", ".join(
                f"{goal.metric.rpartition('/')[2]} {summary.format_value(trial.values.get(goal.metric))}"
                for goal in state.goals
            )
            settings = ", ".join(f"{n.rpartition('.')[2]}={summary.format_value(v)}" for n, v in trial.settings.items())
            # A line of its own for what tells the trials apart: the strip is narrow.
            strips.append((f"trial {trial.number}, step {trial.step}: {values}\n{settings}", pixels))
    if not strips:
        raise LookupError("no trial recorded a picture")
    return contact_sheet(strips, columns=2 if len(strips) > 1 else 1)


_PICTURE = re.compile(r"images/gallery~(\d+)\+step\+(\d+)\+timestamp\+(\d+)\+.*\.png")


def _newest_picture(client: Any, run_id: str) -> str | None:
    """The artifact of the first gallery picture at its last step."""
    found = [
        (-int(match[1]), int(match[2]), int(match[3]), one.path)
        for one in client.list_artifacts(run_id, "images")
        if (match := _PICTURE.fullmatch(one.path))
    ]
    return max(found)[3] if found else None


def leaderboard_csv(ranked: Sequence[Any], state: SearchState) -> str:
    """The trials, the best first."""
    names = list(dict.fromkeys(name for trial in ranked for name in trial.settings))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "run_id", "status", "step", *(goal.metric for goal in state.goals), *names])
    for trial in ranked:
        values = [trial.values.get(goal.metric) for goal in state.goals]
        cells = [trial.settings.get(name) for name in names]
        writer.writerow([trial.number, trial.run_id, trial.status, trial.step, *values, *cells])
    return text.getvalue()
