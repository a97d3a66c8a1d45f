"""A run goes by its id or the beginning of it; lists say how many more there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainplane.errors import UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.find_run import find_run, is_run_id
from trainplane.tracking.run_id import PARENT_TAG
from trainplane.tracking.search_runs import SEARCH_TAG, Conditions, search_runs


@pytest.fixture
def server(tracking_uri: str) -> TrackingServer:
    return TrackingServer(tracking_uri)


def make(server: TrackingServer, count: int, experiment: str = "many", **tags: str) -> list[str]:
    client = server.client
    known = client.get_experiment_by_name(experiment)
    number = known.experiment_id if known else client.create_experiment(experiment)
    return [client.create_run(number, run_name=f"r{n}", start_time=n + 1, tags=tags).info.run_id for n in range(count)]


def test_the_beginning_of_an_id_is_enough_unless_several_runs_have_it(server: TrackingServer) -> None:
    ids = make(server, 17)
    assert find_run(server, ids[0]).info.run_id == ids[0]
    shortest = next(n for n in range(1, 33) if sum(run_id.startswith(ids[0][:n]) for run_id in ids) == 1)
    assert find_run(server, ids[0][:shortest]).info.run_id == ids[0]
    # Of 17 runs two begin alike.
    digit = next(run_id[0] for run_id in ids if sum(other[0] == run_id[0] for other in ids) > 1)
    with pytest.raises(UserError, match=f"several runs begin with '{digit}'") as refusal:
        find_run(server, digit)
    assert {run_id for run_id in ids if run_id[0] == digit} <= set(str(refusal.value).split())


@pytest.mark.parametrize("asked", ["zz", "0" * 31, "f" * 32, "%", "a'b", ""])
def test_no_such_run_is_a_sentence(server: TrackingServer, asked: str) -> None:
    with pytest.raises(UserError, match="no run"):
        find_run(server, asked)
    assert not is_run_id("%")


def test_without_a_database_there_is_no_run_and_none_is_made(tmp_path: Path) -> None:
    server = TrackingServer(f"sqlite:///{tmp_path}/home/mlflow.db")
    server.only_read()
    assert search_runs(server, limit=3, conditions=Conditions()).runs == []
    with pytest.raises(UserError, match="no run '12ab' here"):
        find_run(server, "12ab")
    with pytest.raises(UserError, match="nothing is recorded here yet"):
        _ = server.client
    assert not list(tmp_path.iterdir())


def test_the_newest_runs_come_first_and_the_others_are_counted(server: TrackingServer) -> None:
    ids = make(server, 5)
    [search] = make(server, 1, "searches", **{SEARCH_TAG: "mine"})
    trials = make(server, 2, "searches", **{PARENT_TAG: search})
    server.client.set_terminated(trials[0], status="KILLED")

    def found(limit: int | None = None, **conditions: str) -> tuple[list[str], int]:
        result = search_runs(server, limit=limit, conditions=Conditions(**conditions))
        return [run.run_id for run in result.runs], result.num_more

    assert found(2, experiment="many") == ([ids[4], ids[3]], 3)
    assert found(5, experiment="many") == (ids[::-1], 0)
    assert found(experiment="many") == (ids[::-1], 0)
    assert len(found()[0]) == 8
    assert found(status="KILLED") == ([trials[0]], 0)
    assert found(search="mine") == (trials[::-1], 0)
    assert found(search=search[:12], status="RUNNING") == ([trials[1]], 0)
    with pytest.raises(UserError, match="no experiment 'mani'; did you mean 'many'"):
        found(experiment="mani")
    with pytest.raises(UserError, match="no search 'yours'"):
        found(search="yours")
