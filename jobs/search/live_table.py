"""What people see of a search that runs: a table that is drawn anew on a terminal, a line per event elsewhere.

Always on standard error.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any

from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report.summary import format_value, leaderboard
from trainplane.search.run.driver import Driver

DRAW_EVERY_S = 0.5
ROWS = 14
ENDED = {"finished": "reached", "nan": "ran into NaN at", "failed": "failed at"}


class LiveTable:
    """Called by the driver after every change."""

    def __init__(self, name: str, stream: Any = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._next = 0.0
        self._drawn = 0
        self._said: set[tuple[Any, ...]] = set()

    def __call__(self, driver: Driver) -> None:
        if self._is_terminal:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + DRAW_EVERY_S
                self._draw(driver.state, driver.plan.steps)
        else:
            self._say(driver.state)

    def close(self, driver: Driver | None) -> None:
        """Draw how it stands at last."""
        if driver is not None and self._is_terminal:
            self._draw(driver.state, driver.plan.steps)

    def _draw(self, state: SearchState, steps: int) -> None:
        width, height = shutil.get_terminal_size()
        # What has scrolled off the top cannot be drawn over.
        lines = table_lines(state, self._name, steps)[: max(2, height - 1)]
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._stream.write(back + "".join(line[: width - 1] + "\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _say(self, state: SearchState) -> None:
        """A line for each trial that ended, went on, or was taken over."""
        for number in state.commit_order:
            item = state.items[number]
            if ("done", number) in self._said:
                continue
            self._said.add(("done", number))
            trial = state.trials[item.trial]
            done = item.result or {}
            values = {**trial.curve.get(done.get("step", -1), {}), **_numbers(done.get("values", {}))}
            told = ", ".join(
                f"{goal.metric} {format_value(values[goal.metric])}" for goal in state.goals if goal.metric in values
            )
            settings = ", ".join(f"{name}={format_value(value)}" for name, value in trial.settings.items())
            what = ENDED[done.get("status", "failed")]
            why = f" ({done['error']})" if done.get("error") else ""
            print(
                f"trial {trial.number} {what} step {done.get('step')}: {told or 'no value'}; {settings}{why}",
                file=self._stream,
                flush=True,
            )
        if state.generation and ("generation", state.generation) not in self._said:
            self._said.add(("generation", state.generation))
            taken = [f"{trial.number} from {trial.donor['donor']}" for trial in state.trials.values() if trial.donor]
            print(f"generation {state.generation}: {', '.join(taken) or 'nobody'} took over", file=self._stream)


def table_lines(state: SearchState, name: str, steps: int) -> list[str]:
    """The table: who runs, who leads, what is spent."""
    found = leaderboard(state)
    standing = [trial.status for trial in state.trials.values()]
    counts = {what: standing.count(what) for what in ("running", "resting", "finished", "stopped", "nan", "failed")}
    told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    head = f"search {name}: {len(state.trials)} of {state.trial_limit} trials ({told or 'none yet'}), "
    lines = [
        head + f"{state.usage.total_steps:,} steps, {state.usage.wall_s / 60:.1f} min",
        "  ".join(["trial ", f"{'':<9}", f"{'step':>11}", *(f"{goal.metric:>14}" for goal in state.goals), "settings"]),
    ]
    running = [trial for trial in found.ranked if trial.status == "running"]
    rest = [trial for trial in found.ranked if trial.status != "running"]
    for trial in [*running, *rest][:ROWS]:
        lines.append(_line(trial, state, steps, best=found.best))
    return lines


def _line(trial: TrialState, state: SearchState, steps: int, *, best: TrialState | None) -> str:
    newest = max(trial.curve, default=None)
    values = trial.curve[newest] if newest is not None else trial.values
    cells = [f"{format_value(values.get(goal.metric)):>14}" for goal in state.goals]
    settings = " ".join(f"{name.rpartition('.')[2]}={format_value(value)}" for name, value in trial.settings.items())
    mark = "*" if best is not None and trial.number == best.number else " "
    far = f"{max(state.usage.steps.get(trial.number, 0), trial.step)}/{steps}"
    return "  ".join([f"{trial.number:>5}{mark}", f"{trial.status:<9}", f"{far:>11}", *cells, settings])


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
