"""Lists of a local database are those of MLflow's client, without MLflow."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Metric
from mlflow.store.db.utils import _get_latest_schema_revision

from trainplane.registry.versions import list_models, model_names
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.local import lists as lists_module
from trainplane.tracking.local.lists import SCHEMA, LocalLists, read_locally
from trainplane.tracking.run_id import PARENT_TAG
from trainplane.tracking.search_runs import SEARCH_TAG, Conditions, search_runs


@pytest.fixture
def server(tracking_uri: str) -> TrackingServer:
    """Runs of three experiments, some deleted, and two models."""
    server = TrackingServer(tracking_uri)
    client = server.client
    first, second, gone = (client.create_experiment(name) for name in ("first", "second", "gone"))
    parent = client.create_run(first, start_time=5, run_name="search", tags={SEARCH_TAG: "mine"}).info.run_id
    for number in range(4):
        tags = {PARENT_TAG: parent} if number % 2 else {}
        # Two began in the same millisecond.
        run = client.create_run(
            (first, second)[number % 2], start_time=10 + number // 2, run_name=f"é {number}", tags=tags
        )
        values = (20.5, math.nan, math.inf, -math.inf)
        client.log_batch(run.info.run_id, metrics=[Metric("val/psnr", values[number], 1, 0), Metric("k", 1.0, 1, 0)])
    client.set_terminated(run.info.run_id, status="KILLED")
    client.delete_run(client.create_run(first, start_time=99).info.run_id)
    client.create_run(gone, start_time=98)
    client.delete_experiment(gone)
    for name, count in (("b-model", 2), ("a-model", 0)):
        client.create_registered_model(name)
        for _ in range(count):
            client.create_model_version(name, "s3://bucket/model", run_id=parent)
    client.set_registered_model_alias("b-model", "production", "1")
    client.delete_model_version("b-model", "2")
    client.create_model_version("b-model", "s3://bucket/model")
    return server


CONDITIONS = [
    Conditions(),
    Conditions(experiment="second"),
    Conditions(status="KILLED"),
    Conditions(status="FAILED"),
    Conditions(search="mine"),
    Conditions(search="mine", status="RUNNING", experiment="second"),
]


def test_both_ways_list_the_same(server: TrackingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def listed() -> list[str]:
        # NaN is not equal to itself, its text is.
        found = [search_runs(server, limit=limit, conditions=c) for limit in (None, 0, 2, 3) for c in CONDITIONS]
        return [
            f"{sorted(result.experiments.items())} {result.num_more} {[(run, run.metrics) for run in result.runs]}"
            for result in found
        ]

    here, models, names = listed(), list_models(server), model_names(server)
    assert models == [
        {"name": "a-model", "latest": None, "aliases": {}},
        {"name": "b-model", "latest": "3", "aliases": {"production": "1"}},
    ]
    for module in ("trainplane.tracking.search_runs", "trainplane.registry.versions"):
        monkeypatch.setattr(f"{module}.read_locally", lambda *_: None)
    assert (here, models, names) == (listed(), list_models(server), model_names(server))


def test_the_beginning_of_a_searchs_id_is_enough(server: TrackingServer) -> None:
    [parent] = [run for run in search_runs(server, limit=None, conditions=Conditions()).runs if run.name == "search"]
    found = search_runs(server, limit=None, conditions=Conditions(search=parent.run_id[:20]))
    assert [run.name for run in found.runs] == ["é 3", "é 1"]


def test_the_known_form_is_that_of_the_installed_mlflow() -> None:
    # After an upgrade: compare the tables, mend the queries, and put the new form here.
    assert _get_latest_schema_revision() == SCHEMA


def test_a_database_of_another_form_is_left_to_mlflow(
    server: TrackingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(lists_module, "SCHEMA", "another")
    assert read_locally(server.address, LocalLists.models) is None
    (tmp_path / "noise.db").write_bytes(b"noise" * 999)
    (tmp_path / "empty.db").write_bytes(b"")
    for address in (f"sqlite:///{tmp_path}/{name}.db" for name in ("noise", "empty", "none")):
        assert read_locally(address, LocalLists.models) is None
    assert read_locally("http://127.0.0.1:1", LocalLists.models) is None
    assert not (tmp_path / "none.db").exists()


def test_lists_import_no_mlflow(server: TrackingServer) -> None:
    code = (
        "import sys; from trainplane.registry.versions import list_models; from trainplane.tracking.client import "
        "TrackingServer; from trainplane.tracking.search_runs import Conditions, search_runs\n"
        f"server = TrackingServer({server.address!r})\n"
        "assert list_models(server) and search_runs(server, limit=3, conditions=Conditions(search='mine')).runs\n"
        "assert not {'mlflow', 'sqlalchemy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
