"""What the stores of a context hold, where MLflow does not know all of it."""

from __future__ import annotations

import os
import time
from pathlib import Path

from trainplane.cluster.context import local
from trainplane.locks import FileLock
from trainplane.storage import open_store
from trainplane.tidy.collect import collect
from trainplane.tidy.decide import decide
from trainplane.tidy.inventory import TidyRules


def test_a_run_that_mlflow_does_not_know_stays_for_a_month(tmp_path: Path) -> None:
    context = local(tmp_path)
    run = f"{context.checkpoints}/strange-0123"
    open_store(run).create("run.json", b"{}")
    now = TidyRules(0.0)
    [kept] = decide(collect(context, {}), now).needed
    assert kept.item.address == run
    assert "MLflow here does not know it" in kept.reason
    moment = time.time() - 31 * 86_400
    os.utime(f"{run}/run.json", (moment, moment))
    assert decide(collect(context, {}), now).addresses == {run}
    # Not while a process here trains it, whatever MLflow knows.
    (tmp_path / "locks").mkdir()
    with FileLock(tmp_path / "locks" / "strange-0123.lock").attempt():
        assert not decide(collect(context, {}), now).addresses


def test_a_search_that_another_path_leads_to_keeps_its_trials(tmp_path: Path) -> None:
    context = local(tmp_path)
    run = f"{context.checkpoints}/trial-0123"
    open_store(run).create("run.json", b"{}")
    moment = time.time() - 31 * 86_400
    os.utime(f"{run}/run.json", (moment, moment))
    found = collect(context, {"/mnt/elsewhere/trial-0123": "the best of search s"})
    assert not decide(found, TidyRules(0.0)).addresses
