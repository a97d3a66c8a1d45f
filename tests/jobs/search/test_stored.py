"""Searches are found by name or folder, without the settings that they were begun with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import SMALL

from jobs.search.spec import build_search, load_search
from jobs.search.stored import stored_searches
from trainplane.cluster.context import resolve
from trainplane.search.run.driver import Driver
from trainplane.search.run.journal import open_journal
from trainplane.search.run.launch import Search, cost_rates, register_search_dir, trial_resources
from trainplane.storage import open_store

WORDS = [*(word for word in SMALL if not word.startswith("train.workers")), "train.workers=1", "name=kept"]


@pytest.fixture
def searches(isnet_there) -> Iterator[Path]:
    """The folder of the shared project's searches, cleared afterwards."""
    folder = Path(resolve().checkpoints) / "searches"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def begin(*words: str, items: int) -> str:
    """Leaves a search after so many items, as its driver does; returns its folder's name."""
    context = resolve()
    search = build_search(load_search("search_demo", [*WORDS, *words]), context)
    register_search_dir(search, context)
    with open_journal(open_store(context.checkpoints), search.folder) as journal:
        driver = Driver.resume(plan_of(search), journal, key=search.key, width=1)
        while items and (item := driver.next_item()) is not None:
            items -= 1
            values = {goal.metric: 20.0 + item.trial for goal in search.settings.goals}
            driver.on_done(
                item.number, status="finished", step=item.last_step, values=values, run_id=f"{item.trial}" * 32
            )
        # It decides that it is over.
        driver.next_item()
    return search.folder.partition("/")[2]


def plan_of(search: Search):
    return search.plan(cost_rates(trial_resources(search.train, gpus=0.0), search.train))


def test_searches_are_listed_with_their_best_and_found_by_name_or_folder(isnet_there, searches: Path) -> None:
    assert "no searches" in isnet_there("tune", "list").out
    folder = begin(items=1)
    [row] = isnet_there("tune", "list", "--json").json()["searches"]
    # Its process is this one, and has its second trial assigned.
    assert (row["search"], row["status"], row["trials"]) == (folder, "running", 2)
    assert row["best"]["run_id"] == "0" * 32
    assert row["words"] == ["search_demo", *WORDS]
    for named in ("kept", folder, folder[:-4]):
        shown = isnet_there("tune", "show", named, "--json")
        assert (shown.status, shown.json()["journal"]) == (0, f"searches/{folder}"), shown.err
    # With the settings that it was begun with, as before.
    assert isnet_there("tune", "show", "search_demo", *WORDS, "--json").json()["journal"] == f"searches/{folder}"


def test_a_search_is_finished_running_or_stopped(isnet_there, searches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(items=99)
    [stored] = stored_searches(resolve())
    assert stored.status(stored.state) == "finished"
    begin("search.seed=5", items=1)
    [stored] = [search for search in stored_searches(resolve()) if search.state.end_reason is None]
    assert stored.status(stored.state) == "running"
    driver = next(record for record in stored.records if record["k"] == "driver")
    driver["pid"] = 4194303
    assert stored.status(stored.state) == "stopped"
    # On another host, by the age of what it wrote last.
    driver["host"] = "elsewhere"
    assert stored.status(stored.state) == "running"
    stored.records[-1]["t"] -= 3600
    assert stored.status(stored.state) == "stopped"


def test_a_stopped_search_shows_no_running_trial_and_how_it_goes_on(
    isnet_there, searches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(items=1)
    running = isnet_there("tune", "show", "kept", "--json").json()
    assert (running["status"], [trial["status"] for trial in running["trials"]]) == ("running", ["resting", "running"])
    monkeypatch.setattr("jobs.search.stored._is_alive", lambda pid: False)
    assert isnet_there("tune", "list", "--json").json()["searches"][0]["status"] == "stopped"
    stopped = isnet_there("tune", "show", "kept", "--json").json()
    assert (stopped["status"], [trial["status"] for trial in stopped["trials"]]) == (
        "stopped",
        ["resting", "interrupted"],
    )
    shown = isnet_there("tune", "show", "kept").out
    assert "running" not in shown
    assert "it goes on with isnet tune search_demo" in shown


@pytest.mark.parametrize("command", [("tune", "show"), ("models", "register", "--name", "m", "--from-search")])
def test_a_search_that_is_not_here_names_those_that_are(isnet_there, searches: Path, command: tuple[str, ...]) -> None:
    nothing = isnet_there(*command, "kepd")
    assert nothing.status == 2
    assert "nor any other; start one, such as isnet tune search_" in nothing.err
    begin(items=1)
    near, far = isnet_there(*command, "kepd"), isnet_there(*command, "quite-another")
    assert (near.status, far.status) == (2, 2)
    assert "did you mean 'kept'?" in near.err
    assert "known: kept; `isnet tune list` has all" in far.err
    assert "ablation" not in nothing.err + near.err + far.err


def test_of_several_searches_of_one_name_each_line_can_be_pasted(isnet_there, searches: Path) -> None:
    folders = {begin(items=1), begin("search.seed=5", items=1)}
    refused = isnet_there("tune", "show", "kept")
    assert refused.status == 2
    lines = [line.split()[:4] for line in refused.err.splitlines() if line.startswith("  isnet tune show")]
    assert {line[3] for line in lines} == folders
    for line in lines:
        assert isnet_there(*line[1:]).status == 0
    # A search of other settings: how to start it, and which there are.
    missing = isnet_there("tune", "show", "search_demo", *WORDS, "search.seed=6")
    assert missing.status == 2
    assert "has no journal" in missing.err
    assert all(folder in missing.err for folder in folders)


def test_a_search_of_older_code_is_listed_and_asks_for_its_settings(isnet_there, searches: Path) -> None:
    folder = begin(items=1)
    file = searches / folder / "search.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps({name: description[name] for name in ("name", "key")}))
    assert folder in isnet_there("tune", "list").out
    assert "was begun by older code" in isnet_there("tune", "show", "kept").err
    assert isnet_there("tune", "show", "search_demo", *WORDS).status == 0
