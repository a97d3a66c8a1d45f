"""`isnet runs compare`: what differs between runs."""

from __future__ import annotations

import json

import pytest

from jobs.commands.compare import different, table
from trainplane.cluster.context import resolve


def record(server, name, config, metrics, **tags):
    """A run in MLflow as a training leaves it."""
    client = server.client
    known = client.get_experiment_by_name("lab")
    number = known.experiment_id if known else client.create_experiment("lab")
    run_id = client.create_run(number, run_name=name, tags={f"trainplane.{key}": text for key, text in tags.items()})
    run_id = run_id.info.run_id
    client.log_text(run_id, json.dumps(config), "config.json")
    for metric, value in metrics.items():
        client.log_metric(run_id, metric, value)
    client.set_terminated(run_id)
    return run_id


@pytest.fixture
def runs(home):
    server = resolve().tracking_server
    one = {"name": "a", "train": {"steps": 4, "lr_g": 0.1}, "data": {"train": "mine"}}
    other = {"name": "b", "train": {"steps": 4, "lr_g": 0.2}, "data": {"train": "mine"}, "guard": {"budget": 3}}
    return [
        record(
            server,
            "first",
            one,
            {"val/psnr": 20.0, "val/psnr_10-20": 21.5, "k": 1.0},
            typed="demo train.steps=9",
        ),
        record(server, "second", other, {"val/psnr": 22.25, "val/ssim": 0.5}, typed="demo"),
    ]


def test_what_differs_is_listed_and_metrics_stand_side_by_side(isnet, runs):
    found = isnet("runs", "compare", *(run[:12] for run in runs), "--json").json()
    assert [run["run_id"] for run in found["runs"]] == runs
    assert found["settings"] == {"guard.budget": [None, 3], "train.lr_g": [0.1, 0.2], "train.steps": ["9", 4]}
    assert found["metrics"] == {"psnr": [20.0, 22.25], "psnr_10-20": [21.5, None], "ssim": [None, 0.5]}
    lines = isnet("runs", "compare", *runs).out.splitlines()
    assert lines[0] == f"{runs[0][:8]}  FINISHED  first"
    assert [line.split() for line in lines[-3:]] == [
        ["psnr", "20.00", "22.25"],
        ["psnr_10-20", "21.50", "-"],
        ["ssim", "-", "0.5000"],
    ]
    assert ["train.lr_g", "0.1", "0.2"] in [line.split() for line in lines]


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_two_runs_are_no_comparison(isnet, runs, count):
    refused = isnet("runs", "compare", *[runs[0]] * count)
    assert refused.status == 2
    assert "got 1 different runs, need two or more, each once; `isnet runs list` shows them" in refused.err


def test_a_run_that_is_not_there_is_named(isnet, runs):
    assert "no run 'ffff' here" in isnet("runs", "compare", runs[0], "ffff").err


def test_equal_values_of_other_types_do_not_differ():
    assert different([{"a": "4", "b": 1}, {"a": 4, "b": 2}]) == {"b": [1, 2]}
    assert table([{"a": 1}, {"b": 2}]) == {"a": [1, None], "b": [None, 2]}
