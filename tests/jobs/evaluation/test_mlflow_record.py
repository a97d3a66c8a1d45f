"""The run of an evaluation that could not be made: gone after a mistake, FAILED or KILLED after a failure."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.evaluation.mlflow_record import _keys, close_run, start_run
from trainplane.errors import RunFailed, UserError
from trainplane.tracking.client import TrackingServer
from trainplane.tracking.mlflow_names import valid_key
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import RunHandle, find_or_create_run


@pytest.fixture
def context(tracking_uri: str) -> Any:
    return SimpleNamespace(tracking_server=TrackingServer(tracking_uri), artifacts="artifacts")


def start(context: Any, tmp_path: Path) -> RunHandle:
    spec = RunSpec("evaluations", run_key="k", run_name="a on b", artifact_root=str(tmp_path))
    return find_or_create_run(context.tracking_server, spec)


def statuses(context: Any) -> list[str]:
    client = context.tracking_server.client
    experiment = client.get_experiment_by_name("evaluations").experiment_id
    return [run.info.status for run in client.search_runs([experiment])]


def test_a_mistake_leaves_no_run_behind(context: Any, tmp_path: Path) -> None:
    close_run(context, start(context, tmp_path), UserError("no such dataset"))
    assert statuses(context) == []


def test_a_mistake_does_not_take_an_earlier_evaluation_with_it(context: Any, tmp_path: Path) -> None:
    start(context, tmp_path)
    close_run(context, start(context, tmp_path), UserError("no such dataset"))
    assert statuses(context) == ["FAILED"]


@pytest.mark.parametrize(("error", "status"), [(RunFailed("damaged"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_failure_stays_in_the_record(context: Any, tmp_path: Path, error: BaseException, status: str) -> None:
    close_run(context, start(context, tmp_path), error)
    assert statuses(context) == [status]


@pytest.mark.parametrize("label", ["models:/isnet-demo@production", "classical:telea", "runs:/a/b", "naïve", "x" * 300])
def test_labels_become_groups_of_metrics_that_mlflow_takes(label: str) -> None:
    key = f"{_keys([label])[label]}/psnr_10-20"
    assert valid_key(key) == key
    assert key.count("/") == 1


def test_a_model_behind_an_alias_is_recorded(context: Any, tmp_path: Path) -> None:
    label = "models:/isnet-demo@production"
    pairing = SimpleNamespace(digest="0", dataset_digest="1" * 64)
    protocol: Any = SimpleNamespace(
        name="demo-val",
        dataset=SimpleNamespace(address=str(tmp_path)),
        eval_set=SimpleNamespace(pairing=pairing, definitions=("isnet",), refine="off"),
        networks=None,
    )
    models: Any = {label: SimpleNamespace(pinned="models:/isnet-demo/1")}
    run = context.tracking_server.client.get_run(start_run(context, models, protocol).run_id)
    assert run.data.tags[f"isnet.model.{_keys([label])[label]}"] == "models:/isnet-demo/1"
    assert run.info.run_name == f"{label} on demo-val"
