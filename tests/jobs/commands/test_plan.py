"""`isnet plan`: resources of a run, all reasons for refusing it, and that planning leaves no trace."""

import json
import os
from pathlib import Path

import pytest
from small_run import SMALL

from trainplane.errors import RunFailed
from trainplane.train.run_key import exclusive


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_run_to_come_is_planned_and_nothing_is_created(isnet, photos, home, tmp_path):
    for name in ("mine", "held"):
        isnet("data", "pack", photos, name)
    (home / "mlflow.db").unlink()
    before = files_below(tmp_path)
    planned = isnet("plan", "train", "demo", *SMALL, "--measure", "train.price_per_hour=3", "--json")
    assert planned.status == 0, planned.err
    found = planned.json()
    assert found["ok"]
    assert found["batch"] == {"global_batch": 4, "ranks": 1, "micro_batch": 4, "accumulation": 1}
    estimate = found["estimate"]
    # Eight photos, four steps of four: two epochs.
    assert (estimate["steps"], estimate["pictures"], estimate["epochs"], estimate["checkpoints"]) == (4, 16, 2.0, 2)
    shards = sum(path.stat().st_size for path in (home / "datasets" / "mine").glob("*.tar"))
    held = sum(path.stat().st_size for path in (home / "datasets" / "held").glob("*.tar"))
    assert estimate["bytes_read"] == 2 * shards + held
    assert estimate["cost"] == pytest.approx(3 * estimate["seconds"] / 3600)
    assert estimate["bytes_written"] == 2 * estimate["checkpoint_bytes"]
    assert files_below(tmp_path) == before


def test_all_reasons_for_refusing_are_told_at_once(isnet, home, tmp_path):
    before = files_below(tmp_path)
    cpus = len(os.sched_getaffinity(0))
    settings = (
        "data.train=nowhere",
        "data.val=neither",
        "data.masks=irregluar",
        "loss.perceptual_weights=missing.pth",
        f"train.workers={4 * cpus}",
        f"train.global_batch={4 * cpus}",
        "train.use_gpu=false",
        "model.width=4",
        "data.size=32",
    )
    planned = isnet("plan", "train", "demo", *settings, "--json")
    assert planned.status == 2
    errors = [f["what"] + f["remedy"] for f in planned.json()["findings"] if f["level"] == "error"]
    for word in ("nowhere", "neither", "did you mean 'irregular'", "missing.pth", f"need {4 * cpus} CPUs"):
        assert any(word in error for error in errors), (word, errors)
    assert len(errors) == 5
    told = isnet("plan", "train", "demo", *settings)
    assert told.status == 2
    assert told.err.count("would be refused") == 5
    assert "Traceback" not in told.err
    assert files_below(tmp_path) == before


def test_faults_of_a_configuration_are_all_named(isnet):
    planned = isnet("plan", "train", "demo", "train.stpes=3", "loss.stlye=1", "--json")
    assert planned.status == 2
    (error,) = [finding["what"] + finding["remedy"] for finding in planned.json()["findings"]]
    assert "did you mean train.steps=3?" in error
    assert "did you mean loss.style=1?" in error
    assert set(planned.json()) >= {"ok", "error", "remedy"}


def test_a_finished_run_tells_the_next_one_how_fast_it_will_be(isnet_there, project):
    from trainplane.tracking.client import TrackingServer

    more = [*SMALL, "train.steps=9"]
    found = isnet_there("plan", "train", "demo", *more, "--json").json()
    assert (found["done"], found["estimate"]["steps"]) == (4, 5)
    client = TrackingServer(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}").client
    # Other tests of the shared project train runs like it, and the newest counts.
    runs = client.search_runs([client.get_run(project.run["run_id"]).info.experiment_id])
    like = {f"as run {run.info.run_id[:8]} had": run.data.metrics.get("time/pictures_per_s") for run in runs}
    assert found["rate"]["source"] in like
    assert found["rate"]["pictures_per_s"] == pytest.approx(like[found["rate"]["source"]])
    record = client.download_artifacts(project.run["run_id"], "plan.json")
    about = json.loads(Path(record).read_text())
    assert about["planned"]["steps"] == about["actual"]["steps"] == 4
    assert about["planned"]["checkpoints_kept"] == about["actual"]["checkpoints_kept"] == 2
    # Names and a JSON of settings come on top of the tensors; this network is as small as none will be.
    assert about["planned"]["checkpoint_bytes"] == pytest.approx(about["actual"]["checkpoint_bytes"], rel=0.05)
    assert about["actual"]["peak_rss"] > 0


def test_a_run_beyond_the_steps_asked_for_and_one_that_is_being_trained_are_refused(isnet_there, project):
    folder = project.run["checkpoint"].split("/")[-2]
    with exclusive(project.folder / "home", folder, doing="training it"):
        refused = isnet_there("plan", "train", "demo", *SMALL, "train.steps=2")
    assert refused.status == 2
    assert "has done 4 steps already" in refused.err
    assert f"is training {folder}" in refused.err
    assert isnet_there("plan", "train", "demo", *SMALL, "--fresh", "--json").json()["run"].endswith(".2")


def test_best_by_a_metric_without_held_out_pictures_is_refused(isnet, photos):
    isnet("data", "pack", photos, "mine")
    best = ("data.val=null", "train.keep_best=2", "train.best_metric=val/psnr")
    refused = isnet("plan", "train", "demo", *SMALL, *best)
    assert refused.status == 2
    assert "set data.val=" in refused.err


@pytest.mark.parametrize("command", [("train", "demo"), ("tune", "search_demo")])
def test_a_store_that_fails_is_a_finding_with_what_to_do(isnet, monkeypatch, command):
    def fail(*_, **__):
        raise RunFailed("s3://b does not answer; look whether it is up")

    monkeypatch.setattr("jobs.train.plan.open_store", fail)
    monkeypatch.setattr("jobs.commands.plan.build_search", fail)
    planned = isnet("plan", *command, "--json")
    assert planned.status == 2
    assert {"level": "error", "what": "s3://b does not answer", "remedy": "look whether it is up"} in planned.json()[
        "findings"
    ]
