"""A result that MLflow does not take is kept whole on this disk, said in a sentence, and told later, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.evaluation import pending_results
from jobs.evaluation.pending_results import Letter
from trainplane.cluster.context import resolve
from trainplane.tracking.client import client_for
from trainplane.tracking.heartbeat import REAPED_TAG
from trainplane.tracking.runs import find_or_create_run

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def run_of(home):
    """A context, and a new RUNNING run in it by key."""
    context = resolve()

    def make(key: str) -> str:
        made = find_or_create_run(
            context.tracking, "results", run_key=key, run_name=key, tags={}, artifact_root=context.artifacts
        )
        return made.run_id

    return context, make


def test_a_result_waits_while_nobody_answers_and_is_told_once(isnet, run_of, tmp_path: Path) -> None:
    context, make = run_of
    parent, trial = make("search"), make("trial")
    folder = tmp_path / "files" / "search"
    folder.mkdir(parents=True)
    (folder / "front.png").write_bytes(b"picture")
    letter = Letter(
        parent,
        str(folder.parent),
        metrics={"best/val/psnr": 21.5, "best/lost": float("nan")},
        tags={"trainplane.best_run": trial},
        others={trial: {"trainplane.standing": "finished"}, "reserved-0123456789abcdef01234567": {"a": "b"}},
    )
    said = pending_results.send(context.at(tracking=DEAD), letter)
    assert said is not None
    assert f"MLflow does not take the result of run {parent}" in said
    assert "`isnet runs sync` sends it" in said
    assert DEAD in isnet("runs", "list").out
    elsewhere = isnet("runs", "sync", "--json").json()
    assert (elsewhere["left"], elsewhere["elsewhere"]) == (0, {DEAD: 1})

    client = client_for(context.tracking)
    # Its process is gone for whoever looks meanwhile.
    client.set_tag(parent, REAPED_TAG, "its process ended without closing the run")
    assert client.get_run(parent).info.status == "RUNNING"
    sent = isnet("runs", "sync", "--of", DEAD, "--json")
    assert (sent.status, sent.json()["runs"][parent]["sent"]) == (0, 1)
    run = client.get_run(parent)
    assert (run.info.status, run.data.metrics["best/val/psnr"]) == ("FINISHED", 21.5)
    assert run.data.tags["trainplane.best_run"] == trial
    assert REAPED_TAG not in run.data.tags
    assert client.get_run(trial).data.tags["trainplane.standing"] == "finished"
    assert [one.path for one in client.list_artifacts(parent, "search")] == ["search/front.png"]
    assert not list((context.home / "outbox").iterdir())


def test_a_letter_that_cannot_be_told_stays_and_the_others_go(isnet, run_of, tmp_path: Path) -> None:
    context, make = run_of
    good, lost = make("good"), make("lost")
    for run_id, folder in ((good, tmp_path / "there"), (lost, tmp_path / "gone")):
        folder.mkdir()
        pending_results.send(context.at(tracking=DEAD), Letter(run_id, str(folder), metrics={}, tags={}))
    (tmp_path / "gone").rmdir()
    (context.home / "outbox" / "torn.json").write_text(json.dumps({"run_id": "torn"})[:-4])
    ran = isnet("runs", "sync", "--of", DEAD, "--json")
    assert ran.status == 1
    assert {run_id: row["left"] for run_id, row in ran.json()["runs"].items()} == {good: 0, lost: 1, "torn": 1}
    assert f"{tmp_path / 'gone'} is gone" in ran.json()["runs"][lost]["error"]
