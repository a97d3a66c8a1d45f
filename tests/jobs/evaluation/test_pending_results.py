"""Results that older code left in HOME/outbox are sent by `isnet runs sync`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainplane.cluster.context import Context, resolve
from trainplane.tracking.run_id import REAPED_TAG, RunSpec
from trainplane.tracking.runs import find_or_create_run

DEAD = "http://127.0.0.1:9"


@pytest.fixture
def context(home: Path) -> Context:
    return resolve()


def write_letter(context: Context, folder: Path, **fields: Any) -> str:
    """A waiting result of a new run, as code before the common spool wrote it."""
    run = find_or_create_run(
        context.tracking_server,
        RunSpec("results", run_key=folder.name, run_name=folder.name, tags={}, artifact_root=context.artifacts),
    )
    folder.mkdir(parents=True)
    (folder / "front.png").write_bytes(b"picture")
    letter = {"run_id": run.run_id, "folder": str(folder), "metrics": {}, "tags": {}, "others": {}, "earned": []}
    outbox = context.home / "outbox"
    outbox.mkdir(exist_ok=True)
    text = json.dumps({**letter, "tracking": DEAD, "time_ms": 1_700_000_000_000, **fields})
    (outbox / f"{run.run_id}.json").write_text(text)
    return run.run_id


def test_a_letter_of_older_code_is_listed_and_sent(isnet, context: Context, tmp_path: Path) -> None:
    client = context.tracking_server.client
    trial = write_letter(context, tmp_path / "trial", tracking=context.tracking)
    parent = write_letter(
        context,
        tmp_path / "search",
        metrics={"best/val/psnr": 21.5, "best/lost": float("nan")},
        tags={"trainplane.best_run": trial},
        others={trial: {"trainplane.standing": "finished"}, "reserved-0123456789abcdef01234567": {"a": "b"}},
    )
    assert DEAD in isnet("runs", "list").out
    elsewhere = isnet("runs", "sync", "--json").json()
    assert (elsewhere["left"], elsewhere["elsewhere"]) == (0, {DEAD: 1})
    # A stale run in the meantime, because its process has ended.
    client.set_tag(parent, REAPED_TAG, "its process ended without closing the run")
    assert client.get_run(parent).info.status == "RUNNING"
    sync = isnet("runs", "sync", "--of", DEAD, "--json")
    assert (sync.status, sync.json()["runs"][parent]["left"], sync.json()["elsewhere"]) == (0, 0, {})
    run = client.get_run(parent)
    assert (run.info.status, run.data.metrics["best/val/psnr"]) == ("FINISHED", 21.5)
    assert run.data.tags["trainplane.best_run"] == trial
    assert REAPED_TAG not in run.data.tags
    assert client.get_run(trial).data.tags["trainplane.standing"] == "finished"
    assert [entry.path for entry in client.list_artifacts(parent)] == ["front.png"]
    assert not list((context.home / "outbox").iterdir())


def test_a_letter_that_cannot_be_sent_stays_and_the_others_go(isnet, context: Context, tmp_path: Path) -> None:
    good, lost = (write_letter(context, tmp_path / name) for name in ("there", "gone"))
    (tmp_path / "gone" / "front.png").unlink()
    (tmp_path / "gone").rmdir()
    (context.home / "outbox" / "torn.json").write_text(json.dumps({"run_id": "torn"})[:-4])
    sync = isnet("runs", "sync", "--of", DEAD, "--json")
    assert sync.status == 1
    assert {run_id: row["left"] for run_id, row in sync.json()["runs"].items()} == {good: 0, lost: 1, "torn": 1}
    assert f"{tmp_path / 'gone'} is gone" in sync.json()["runs"][lost]["error"]
    waiting = isnet("runs", "list", "--json").json()["waiting"]
    assert {row["run_id"] for row in waiting} == {lost, "torn"}
