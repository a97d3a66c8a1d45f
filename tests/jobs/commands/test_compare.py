"""`isnet runs compare`: what differs between runs."""

from __future__ import annotations

import csv
import json
import re
import sqlite3

import pytest

from jobs.tracking.comparison import different, table
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
    start = lines.index("last metrics:") + 2
    assert [line.split() for line in lines[start : start + 3]] == [
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


def test_curves_and_bins_stand_on_one_page_that_needs_nothing_else(isnet, runs, tmp_path):
    client = resolve().tracking_server.client
    # The first value is there: 20 and 22.25 at step 0.
    for step in range(1, 5):
        client.log_metric(runs[0], "val/psnr", 20.0 + step, step=step)
        client.log_metric(runs[1], "val/psnr", float("nan") if step == 2 else 20.0 - step, step=step)
        client.log_metric(runs[1], "val/psnr_0-10", 30.0, step=step)
    found = isnet("runs", "compare", *runs, "--html", tmp_path / "page.html", "--json").json()
    assert found["page"] == str(tmp_path / "page.html")
    assert found["curves"]["val/psnr"][0] == {"steps": [0, 1, 2, 3, 4], "values": [20.0, 21.0, 22.0, 23.0, 24.0]}
    page = (tmp_path / "page.html").read_text()
    # A value that is not finite leaves a gap: one line for the first run, two for the second.
    assert page.count("second, val/psnr</title>") == 2
    assert page.count("first, val/psnr</title>") == 1
    assert "By hole ratio" in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    printed = isnet("runs", "compare", *runs).out
    # Rising, and falling with a gap; both between the same two values.
    assert re.search(r"val/psnr +[^ ]*█ +[^ ]+ +[^ ]+\n", printed)


def test_a_curve_of_many_points_is_thinned_to_the_same_picture(home):
    from trainplane.tracking.query.curves import POINTS, all_points, read_curves
    from trainplane.tracking.query.records import read_runs

    server = resolve().tracking_server
    run_id = record(server, "long", {}, {})
    database = sqlite3.connect(home / "mlflow.db")
    rows = [("k", step / 7, step, run_id, step, 0) for step in range(0, 30_000, 3)]
    insert = "INSERT INTO metrics(key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)"
    database.executemany(insert, rows)
    database.execute(
        "INSERT INTO latest_metrics(key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)", rows[-1]
    )
    database.commit()
    [run] = read_runs(server, [run_id[:9]])
    [curve, nothing] = read_curves(server, run, ["k", "none"])
    assert (curve.steps[0], curve.steps[-1]) == (0, 29_997)
    assert 0.9 * POINTS <= len(curve.steps) <= POINTS + 2
    assert all(value == step / 7 for step, value in zip(curve.steps, curve.values, strict=True))
    assert nothing.steps == ()
    assert sum(1 for _ in all_points(server, run)) == len(rows)


def events_of(folder):
    """Scalars of TensorBoard's event files: records of length, checksum, message, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    [file] = folder.glob("events.out.tfevents.*")
    data, position, scalars = file.read_bytes(), 0, []
    while position < len(data):
        size = int.from_bytes(data[position : position + 8], "little")
        event = Event.FromString(data[position + 12 : position + 12 + size])
        scalars += [
            (value.tag, event.step, value.simple_value)
            for value in event.summary.value
            if value.HasField("simple_value")
        ]
        position += 16 + size
    return scalars


def test_curves_are_exported_whole(isnet, runs, tmp_path, monkeypatch):
    client = resolve().tracking_server.client
    for step, value in enumerate([1.5, float("nan"), 2.5]):
        client.log_metric(runs[0], "train/loss", value, timestamp=1_700_000_000_000 + step, step=step)
    made = isnet("runs", "export", runs[0][:10], "-o", tmp_path / "curves.csv", "--json").json()
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert made["points"] == len(rows) == 6
    losses = [(row["step"], row["time"], row["value"]) for row in rows if row["metric"] == "train/loss"]
    assert losses == [("0", "1700000000.000", "1.5"), ("1", "1700000000.001", "nan"), ("2", "1700000000.002", "2.5")]
    assert isnet("runs", "export", runs[0], "--to", "tensorboard", "-o", tmp_path / "events").status == 0
    scalars = events_of(tmp_path / "events")
    assert ("train/loss", 2, 2.5) in scalars
    assert len(scalars) == 6
    again = isnet("runs", "export", runs[0], "--to", "tensorboard", "-o", tmp_path / "events")
    assert (again.status, "give another folder" in again.err) == (2, True)
    # A server's client gives the same points.
    from trainplane.tracking.query import curves

    monkeypatch.setattr(curves, "SQLITE", "nothing:")
    isnet("runs", "export", runs[0], "-o", tmp_path / "by-client.csv")
    assert (tmp_path / "by-client.csv").read_text() == (tmp_path / "curves.csv").read_text()
