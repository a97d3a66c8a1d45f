"""Record of a finished search in MLflow.

The parent run gets the leaderboard, the costs and charts; each trial's run gets its status. A chart that cannot be
drawn, or an image that cannot be fetched, is reported and left out.
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
from trainplane.search.report.curves import search_curves
from trainplane.search.report.importance import doubt, importance
from trainplane.search.run.launch import Search, cost_rates, trial_resources
from trainplane.tracking.client import reason
from trainplane.tracking.images import Pixels, contact_sheet
from trainplane.tracking.pages import artifact_link, runs_page, write_view
from trainplane.tracking.results import RunResult

# Trials on the contact sheet, and in the table of the description.
SHEET_TRIALS = 12
BOARD_TRIALS = 20
# MLflow stores a description as a tag; this is the limit of a tag.
NOTE_CHARACTERS = 5000


def search_record(context: Context, run_id: str, search: Search, state: SearchState) -> RunResult:
    """Builds a finished search's record, with files below HOME/searches."""
    board = summary.leaderboard(state)
    best = board.best
    assert best is not None
    statuses = {number: trial.status for number, trial in state.trials.items()}
    spent = budget.cost_report(state.usage, statuses, cost_rates(trial_resources(search.train, gpus=0.0), search.train))
    finished = sum(summary.trial_scores(trial, state.goals) is not None for trial in state.trials.values())
    few = doubt(finished, len(search.space.dimensions))
    shares = {
        goal.metric: importance(search.settings, search.space, state, goal=n) for n, goal in enumerate(state.goals)
    }
    folder = context.home / "searches" / run_id
    (folder / "search").mkdir(parents=True, exist_ok=True)
    (folder / "leaderboard.csv").write_text(leaderboard_csv(board.ranked, state), encoding="utf-8")
    importances: dict[str, Any] = {**shares, **({"doubt": few} if few else {})}
    for file, values in {"spent.json": spent, "importance.json": importances}.items():
        (folder / file).write_text(json.dumps(values, indent=2), encoding="utf-8")
    # Charts come last: the record is complete without them.
    for name, draw in chart_drawers(search, state, board, shares, few, context).items():
        if (pixels := _attempt(name, draw)) is not None:
            Image.fromarray(pixels).save(folder / "search" / f"{name}.png")
    note = _trials_link(context, run_id, search) + _pictures(run_id, folder, few)
    return RunResult(
        run_id,
        folder,
        metrics={
            # The best trial's run has its other metrics.
            **{f"best/{goal.metric}": best.values[goal.metric] for goal in state.goals if goal.metric in best.values},
            "spent/steps": float(spent["steps"]),
            "spent/cpu_hours": spent["cpu_seconds"] / 3600,
        },
        tags={
            "trainplane.best_run": best.run_id,
            "trainplane.best_trial": str(best.number),
            "mlflow.note.content": description(state, board, spent, note=note),
        },
        curves=search_curves(state, board),
        run_tags={
            trial.run_id: {"trainplane.standing": trial.status} for trial in state.trials.values() if trial.run_id
        },
    )


def _trials_link(context: Context, run_id: str, search: Search) -> str:
    """Markdown that leads to the table of trials."""
    from mlflow.exceptions import MlflowException

    key, goals = f"search{run_id[:8]}", [goal.metric for goal in search.settings.goals]
    try:
        client = context.tracking_server.client
        experiment = client.get_run(run_id).info.experiment_id
        settings = list(search.space.dimensions)
        name = f"trials of {search.name}"
        write_view(client, experiment, metrics=goals, params=settings, key=key, name=name, parent=run_id)
    # MLflow is away: the record waits for it, and does without.
    except (MlflowException, OSError):
        return ""
    return f"[All trials with their settings]({runs_page('', experiment, key=key)})\n\n"


def _pictures(run_id: str, folder: Path, few: str | None) -> str:
    """Markdown of the charts, drawn or not."""
    drawn = {path.stem for path in (folder / "search").glob("*.png")}
    # What a reader looks for first; the others are among the artifacts.
    names = [name for name in ("learning_curves", "contact_sheet") if name in drawn]
    links = [f"![{name.replace('_', ' ')}]({artifact_link(run_id, f'search/{name}.png')})" for name in names]
    return "\n\n".join([*([f"Importance of settings: {few}."] if few else []), *links])


def description(state: SearchState, board: summary.Leaderboard, spent: Mapping[str, Any], *, note: str = "") -> str:
    """Markdown description of the parent run: costs, best trials."""
    # Fewer rows until the text fits a tag.
    for count in range(BOARD_TRIALS, -1, -5):
        table = _board(state, board, count)
        total = len(board.ranked)
        more = f" The best {count} of {total}, all in `leaderboard.csv`:" if total > count else ""
        text = (
            f"{cost_text(spent)}; ended: {state.end_reason}.{more}\n\n{table}\n\n{note}\n\n"
            "More pictures: artifacts, below `search/`."
        )
        if len(text) <= NOTE_CHARACTERS:
            break
    return text


def _board(state: SearchState, board: summary.Leaderboard, count: int) -> str:
    """Markdown table of the best trials."""
    names = list(dict.fromkeys(name for trial in board.ranked for name in trial.settings))
    goals = [goal.metric for goal in state.goals]
    rows = [
        [
            f"**{trial.number}**" if trial is board.best else trial.number,
            *(summary.format_value(trial.values.get(goal)) for goal in goals),
            trial.step,
            trial.status,
            *(summary.format_value(trial.settings.get(name)) for name in names),
        ]
        for trial in board.ranked[:count]
    ]
    return markdown_table(["trial", *goals, "steps", "standing", *names], rows)


def cost_text(spent: Mapping[str, Any]) -> str:
    """Formats a `budget.cost_report` in one line."""
    # Only causes with any waste.
    waste = ", ".join(f"{cause} {part['steps']:,.0f}" for cause, part in spent["waste"].items() if part["steps"])
    money = f", {spent['money']:g} in money" if spent["money"] is not None else ""
    return (
        f"spent {spent['steps']:,} steps, {spent['cpu_seconds'] / 3600:.3f} CPU-hours"
        + (f", {spent['gpu_seconds'] / 3600:.3f} GPU-hours" if spent["gpu_seconds"] else "")
        + f"{money}; of these steps: {waste or 'none wasted'}"
    )


def chart_drawers(
    search: Search,
    state: SearchState,
    board: summary.Leaderboard,
    shares: dict[str, dict[str, float]],
    few: str | None,
    context: Context,
) -> dict[str, Callable[[], Pixels]]:
    """Functions that draw the charts, by name of chart."""
    drawers: dict[str, Callable[[], Pixels]] = {
        "learning_curves": lambda: charts.learning_curves(state, board),
        "parallel_coordinates": lambda: charts.parallel_coordinates(state, board, search.space.dimensions),
    }
    # A front needs two objectives.
    if len(state.goals) > 1:
        drawers["pareto_front"] = lambda: charts.pareto_front(state, board)
    for metric, parts in shares.items():
        if parts:
            name = f"importance_{re.sub(r'[^a-z0-9]+', '_', metric.lower())}"
            drawers[name] = lambda parts=parts, metric=metric: charts.importances(parts, metric, doubt=few)  # type: ignore[misc]
    recorded = [trial for trial in board.ranked if trial.run_id][:SHEET_TRIALS]
    if recorded:
        drawers["contact_sheet"] = lambda: sheet(recorded, state, context)
    return drawers


def _attempt(name: str, draw: Callable[[], Pixels]) -> Pixels | None:
    """Draws a chart; prints why where that fails."""
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException

    try:
        return draw()
    except (MlflowException, BotoCoreError, ClientError, UserError, RunFailed, OSError, LookupError) as error:
        remedy = "run the same command again to draw it"
        print(f"isnet: the picture {name} is left out ({reason(error)}); {remedy}", file=sys.stderr)
        return None


def sheet(trials: Sequence[TrialState], state: SearchState, context: Context) -> Pixels:
    """Contact sheet of the trials' gallery images, best trial first."""
    client, strips = context.tracking_server.client, []
    with tempfile.TemporaryDirectory(prefix="isnet-sheet-") as folder:
        for trial in trials:
            artifact = _newest_gallery_image(client, trial.run_id)
            if artifact is None:
                continue
            file = client.download_artifacts(trial.run_id, artifact, folder)
            with Image.open(Path(file)) as image:
                pixels = np.asarray(image.convert("RGB"))
            values = ", ".join(
                f"{goal.metric.rpartition('/')[2]} {summary.format_value(trial.values.get(goal.metric))}"
                for goal in state.goals
            )
            settings = summary.format_settings(trial.settings)
            # The settings have a line of their own, because the strip is narrow.
            strips.append((f"trial {trial.number}, step {trial.step}: {values}\n{settings}", pixels))
    if not strips:
        raise LookupError("no trial recorded a picture")
    return contact_sheet(strips, columns=2 if len(strips) > 1 else 1)


# MLflow's name of a logged image: index, step, time and a random id.
_GALLERY_IMAGE = re.compile(r"images/gallery~(\d+)\+step\+(\d+)\+timestamp\+(\d+)\+.*\.png")


def _newest_gallery_image(client: Any, run_id: str) -> str | None:
    """Artifact of the first gallery image at its last step."""
    # Lowest index, then newest step and time.
    images = [
        (-int(match[1]), int(match[2]), int(match[3]), artifact.path)
        for artifact in client.list_artifacts(run_id, "images")
        if (match := _GALLERY_IMAGE.fullmatch(artifact.path))
    ]
    return max(images)[3] if images else None


def leaderboard_csv(ranked: Sequence[TrialState], state: SearchState) -> str:
    """Leaderboard as CSV, the best trial first."""
    names = list(dict.fromkeys(name for trial in ranked for name in trial.settings))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["trial", "run_id", "status", "step", *(goal.metric for goal in state.goals), *names])
    for trial in ranked:
        values = [trial.values.get(goal.metric) for goal in state.goals]
        cells = [trial.settings.get(name) for name in names]
        writer.writerow([trial.number, trial.run_id, trial.status, trial.step, *values, *cells])
    return text.getvalue()
