"""The runs of a job are found by its name, and closed as KILLED when it was stopped."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trainplane.cluster.jobs.runs import main_runs, runs_of_jobs
from trainplane.cluster.jobs.status import find_job
from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.lineage import JOB_TAG, JOB_VARIABLE, job_tags
from trainplane.tracking.run_id import PARENT_TAG
from trainplane.tracking.stopped import close_as_stopped, trials_of


def test_stopped_runs_are_killed_and_those_that_had_ended_stay(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = TrackingServer(tracking_uri)
    client = server.client
    assert job_tags() == {}
    monkeypatch.setenv(JOB_VARIABLE, "isnet-1")

    def run(**tags: str) -> str:
        return str(client.create_run("0", tags={**job_tags(), **tags}).info.run_id)

    search = run()
    trials = [run(**{PARENT_TAG: search}) for _ in range(4)]
    other = run(**{JOB_TAG: "isnet-12"})
    client.set_terminated(trials[0], status="FINISHED", end_time=2000)
    client.set_terminated(trials[1], status="FAILED", end_time=10)
    # What the stop itself did: the process was ended before it could tell why.
    client.set_terminated(trials[2], status="FAILED", end_time=2000)
    assert {run.info.run_id for run in trials_of(server, search)} == set(trials)
    assert main_runs(runs_of_jobs(server)) == {"isnet-1": search, "isnet-12": other}
    runs = runs_of_jobs(server, "isnet-1")
    assert set(close_as_stopped(server, runs, since_ms=1000)) == {search, trials[2], trials[3]}
    statuses = [client.get_run(run_id).info.status for run_id in (search, *trials, other)]
    assert statuses == ["KILLED", "FINISHED", "FAILED", "KILLED", "KILLED", "RUNNING"]


def test_a_job_goes_by_the_beginning_of_its_id() -> None:
    def info(job: str) -> SimpleNamespace:
        about = {"status": "RUNNING", "message": "", "entrypoint": "python", "driver_exit_code": None}
        return SimpleNamespace(submission_id=job, start_time=1, end_time=None, metadata=None, **about)

    def asked(job: str) -> SimpleNamespace:
        raise RuntimeError("404")

    cluster = SimpleNamespace(
        list_jobs=lambda: [info("isnet-89a5"), info("isnet-89b0"), info("isnet-89b0-2")], get_job_info=asked
    )
    assert find_job(cluster, "isnet-89a").job == find_job(cluster, "89a").job == "isnet-89a5"
    # A whole id is that job, although another begins with it.
    assert find_job(cluster, "isnet-89b0").job == "isnet-89b0"
    with pytest.raises(UserError, match="several jobs begin with '89'"):
        find_job(cluster, "89")
    with pytest.raises(UserError, match="no job '77' on this cluster"):
        find_job(cluster, "77")
