"""What the page of a search says of it."""

from jobs.search.mlflow_record import NOTE_CHARACTERS, description
from trainplane.search.config import Objective
from trainplane.search.policy.state import SearchState, TrialState
from trainplane.search.report.summary import leaderboard

SPENT = {"steps": 400, "cpu_seconds": 7200.0, "gpu_seconds": 0.0, "money": 1.5}
SPENT["waste"] = {"stopped early": {"steps": 120, "seconds": 9.0}, "NaN": {"steps": 0, "seconds": 0.0}}


def searched(trials, settings):
    tried = {
        number: TrialState(
            number,
            {f"loss.{index}": 0.1 * number for index in range(settings)},
            status="finished",
            step=10,
            values={"val/psnr": float(number)},
        )
        for number in range(trials)
    }
    state = SearchState((Objective(metric="val/psnr", mode="max"),), trials=tried)
    state.end_reason = "all trials are done"
    return state, leaderboard(state)


def test_a_small_search_is_told_whole_and_its_best_first():
    text = description(*searched(4, settings=2), SPENT)
    assert text.startswith(
        "spent 400 steps, 2.000 CPU-hours, 1.5 in money; of these steps: stopped early 120; ended: all"
    )
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4
    assert rows[2].startswith("| **3** | 3.0000 | 10 | finished |")
    assert "leaderboard.csv" not in text


def test_a_large_search_shows_as_many_trials_as_a_description_has_room_for():
    text = description(*searched(500, settings=20), SPENT)
    assert len(text) <= NOTE_CHARACTERS
    assert "of 500, all in `leaderboard.csv`" in text
    assert "**499**" in text
