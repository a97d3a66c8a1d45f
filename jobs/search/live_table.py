"""Live view of a running search, on standard error.

On a terminal a table is redrawn; elsewhere each event is a line.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, get_args

from trainplane.search.policy.state import SearchState, TrialState, TrialStatus, decode_values
from trainplane.search.report.summary import format_settings, format_value, leaderboard
from trainplane.search.run.driver import Driver

# Shortest time between two drawings, and rows of the table.
DRAW_EVERY_S = 0.5
ROWS = 14
EVENTS = {"finished": "reached", "nan": "ran into NaN at", "failed": "failed at"}


class LiveTable:
    """Table that the driver updates after every change."""

    def __init__(self, name: str, stream: Any = None) -> None:
        self._name = name
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._next = 0.0
        self._drawn = 0
        self._printed: set[tuple[Any, ...]] = set()

    def __call__(self, driver: Driver) -> None:
        """Shows the state, at most every half second."""
        if self._is_terminal:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + DRAW_EVERY_S
                self._draw(driver.state, driver.plan.steps)
        else:
            self._print_events(driver.state)

    def close(self, driver: Driver) -> None:
        """Draws the final state."""
        if self._is_terminal:
            self._draw(driver.state, driver.plan.steps)

    def _draw(self, state: SearchState, steps: int) -> None:
        width, height = shutil.get_terminal_size()
        # Lines that have scrolled off the top cannot be overwritten.
        lines = table_lines(state, self._name, steps)[: max(2, height - 1)]
        # Move the cursor up to the first line of the last table and clear what is below.
        back = f"\x1b[{self._drawn}F\x1b[J" if self._drawn else ""
        self._stream.write(back + "".join(line[: width - 1] + "\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _print_events(self, state: SearchState) -> None:
        """Prints a line for each new result and each generation."""
        # One line for each item whose result counts and was not printed before.
        for number in state.commit_order:
            item = state.items[number]
            if ("done", number) in self._printed:
                continue
            self._printed.add(("done", number))
            trial = state.trials[item.trial]
            result = item.result or {}
            # A result without values (NaN, failure) shows the last report.
            values = {**trial.curve.get(result.get("step", -1), {}), **decode_values(result.get("values", {}))}
            scores = ", ".join(
                f"{goal.metric} {format_value(values[goal.metric])}" for goal in state.goals if goal.metric in values
            )
            settings = ", ".join(f"{name}={format_value(value)}" for name, value in trial.settings.items())
            event = EVENTS[result.get("status", "failed")]
            reason = f" ({result['error']})" if result.get("error") else ""
            print(
                f"trial {trial.number} {event} step {result.get('step')}: {scores or 'no value'}; {settings}{reason}",
                file=self._stream,
                flush=True,
            )
        if state.generation and ("generation", state.generation) not in self._printed:
            self._printed.add(("generation", state.generation))
            copies = [
                f"trial {trial.number} copies trial {trial.donor['donor']}"
                for trial in state.trials.values()
                if trial.donor
            ]
            print(f"generation {state.generation}: {', '.join(copies) or 'no copies'}", file=self._stream)


def table_lines(state: SearchState, name: str, steps: int) -> list[str]:
    """Lines of the table: totals, running trials, then the leaderboard."""
    board = leaderboard(state)
    statuses = [trial.status for trial in state.trials.values()]
    counts = {status: statuses.count(status) for status in get_args(TrialStatus)}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    head = f"search {name}: {len(state.trials)} of {state.trial_limit} trials ({summary or 'none yet'}), "
    lines = [
        head + f"{state.usage.total_steps:,} steps, {state.usage.wall_s / 60:.1f} min",
        "  ".join(["trial ", f"{'':<9}", f"{'step':>11}", *(f"{goal.metric:>14}" for goal in state.goals), "settings"]),
    ]
    # Running trials first; `sorted` keeps the order of the leaderboard within each part.
    for trial in sorted(board.ranked, key=lambda trial: trial.status != "running")[:ROWS]:
        lines.append(_line(trial, state, steps, best=board.best))
    return lines


def _line(trial: TrialState, state: SearchState, steps: int, *, best: TrialState | None) -> str:
    # The newest report; a trial without one shows its last result.
    newest = max(trial.curve, default=None)
    values = trial.curve[newest] if newest is not None else trial.values
    cells = [f"{format_value(values.get(goal.metric)):>14}" for goal in state.goals]
    settings = format_settings(trial.settings, " ")
    mark = "*" if best is not None and trial.number == best.number else " "
    progress = f"{max(state.usage.steps.get(trial.number, 0), trial.step)}/{steps}"
    return "  ".join([f"{trial.number:>5}{mark}", f"{trial.status:<9}", f"{progress:>11}", *cells, settings])
