"""A finished run can be run again from what it recorded, and what is gone since is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from small_run import SMALL

from trainplane.cluster.context import resolve
from trainplane.tracking.client import TrackingServer


@pytest.fixture
def threads_put_back():
    """Torch's number of threads is of the process, so a test gives it back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_put_back")
def test_a_run_is_run_again_from_what_it_recorded(isnet_there, project, tmp_path, monkeypatch):
    told = isnet_there("runs", "reproduce", project.run["run_id"], "-o", tmp_path / "again", "--json").json()
    # The suite may run from changed code or an installed copy; nothing else may have changed.
    assert [line for line in told["missing"] if not line.startswith("code:")] == []
    assert told["state_digest"] == project.run["state_digest"]
    assert told["commands"][-1] == f"isnet train {tmp_path}/again/config.yaml --fresh"
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert Path(config["data"]["train"]).is_absolute()
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / "home"))
    # Here torch has another number of threads than where the run was; the bits must not depend on that.
    torch.set_num_threads(other_than(config["train"]["threads"]))
    again = isnet_there("train", str(tmp_path / "again" / "config.yaml"), "--fresh", "--json")
    assert again.status == 0, again.err
    assert again.json()["run_id"] != project.run["run_id"]
    assert again.json()["state_digest"] == project.run["state_digest"]


@pytest.mark.nightly
def test_a_run_keeps_the_number_of_threads_it_began_with(project, tmp_path, monkeypatch):
    began = int(
        TrackingServer(resolve().tracking).client.get_run(project.run["run_id"]).data.tags["trainplane.threads"]
    )
    monkeypatch.setenv("ISNET_HOME", str(tmp_path / "home"))
    data = [f"data.{name}={project.folder}/home/datasets/{held}" for name, held in (("train", "mine"), ("val", "held"))]

    def train(threads: int, *words: str) -> dict:
        command = [sys.executable, "-m", "jobs.cli", "train", "demo", *SMALL, *data, *words, "--json"]
        there = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        ran = subprocess.run(command, capture_output=True, text=True, check=False, env=there)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    half = train(began, "train.steps=2")
    whole = train(other_than(began))
    assert whole["run_id"] == half["run_id"]
    assert whole["state_digest"] == project.run["state_digest"]


def other_than(threads: int) -> int:
    return 2 if threads == 1 else 1


def copied_run(project, *, place, typed, tags=()):
    """Copies the record of the project's run, with another address and name of its datasets."""
    client = TrackingServer(resolve().tracking).client
    run = client.get_run(project.run["run_id"])
    run_id = client.create_run("0").info.run_id
    for key, value in [*run.data.tags.items(), *tags]:
        if key.startswith("trainplane."):
            client.set_tag(run_id, key, value)
    # MLflow's row has the address of the first run that read these data.
    client.log_inputs(run_id, run.inputs.dataset_inputs)
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    config["data"] |= {"train": typed.format("train"), "val": typed.format("val")}
    client.log_dict(run_id, config, "config.json")
    places = {purpose: {**place, "uri": place["uri"].format(purpose)} for purpose in ("training", "validation")}
    facts = json.loads(Path(client.download_artifacts(run.info.run_id, "lineage.json")).read_text())
    client.log_dict(run_id, {**facts, "datasets": places}, "lineage.json")
    return run_id


@pytest.mark.parametrize("typed", ["demo-{}", "s3://isnet-demo/datasets/demo-{}"])
def test_data_that_moved_are_found_by_their_digest(isnet_there, project, tmp_path, monkeypatch, typed):
    # A store that is gone. With keys in the environment, Amazon's bucket of that name would be asked.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody's")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "somebody's")
    monkeypatch.setattr("trainplane.storage.s3.store.S3Store.read", lambda *_, **__: pytest.fail("S3 was asked"))
    place = {"uri": "s3://isnet-demo/datasets/demo-{}", "endpoint": "http://127.0.0.1:9"}
    told = isnet_there("runs", "reproduce", copied_run(project, place=place, typed=typed), "-o", tmp_path / "again")
    assert "dataset" not in told.out
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    datasets = project.folder / "home" / "datasets"
    assert [config["data"][name] for name in ("train", "val")] == [str(datasets / "mine"), str(datasets / "held")]


def test_data_that_are_gone_leave_no_address_behind(isnet_there, project, tmp_path, monkeypatch):
    monkeypatch.setattr("trainplane.storage.s3.store.S3Store.read", lambda *_, **__: pytest.fail("S3 was asked"))
    place = {"uri": "s3://isnet-demo/datasets/demo-{}", "endpoint": "http://127.0.0.1:9"}
    gone = [(f"trainplane.dataset.{purpose}", "e" * 64) for purpose in ("training", "validation")]
    run_id = copied_run(project, place=place, typed="s3://isnet-demo/datasets/demo-{}", tags=gone)
    told = isnet_there("runs", "reproduce", run_id, "-o", tmp_path / "again")
    assert told.status == 1
    assert f"had digest {'e' * 64} (it was read from s3://isnet-demo/datasets/demo-training)" in told.out
    assert "pack the same pictures again" in told.out
    config = yaml.safe_load((tmp_path / "again" / "config.yaml").read_text())
    assert [config["data"][name] for name in ("train", "val")] == ["demo-train", "demo-val"]


def test_what_is_no_longer_there_is_named(isnet_there, project, tmp_path):
    client = TrackingServer(resolve().tracking).client
    changed = client.create_run("0")
    run = client.get_run(project.run["run_id"])
    run_id = changed.info.run_id
    for key, value in run.data.tags.items():
        if key.startswith("trainplane."):
            client.set_tag(run_id, key, value)
    client.set_tag(run_id, "trainplane.commit", "0" * 40)
    client.set_tag(run_id, "trainplane.checkpoint", str(tmp_path / "gone"))
    client.set_tag(run_id, "trainplane.dataset.training", "f" * 64)
    client.log_inputs(run_id, run.inputs.dataset_inputs)
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    client.log_dict(run_id, config, "config.json")
    client.log_dict(run_id, {"environment": {"python": "2.7.18", "torch": "0.1"}}, "lineage.json")
    told = isnet_there("runs", "reproduce", run_id, "-o", tmp_path / "again", "--json")
    assert told.status == 1
    missing = "\n".join(told.json()["missing"])
    for part in (
        "training dataset: ",
        "had digest " + "f" * 64,
        "commit " + "0" * 40,
        "package: python was 2.7.18 and is 3.",
        "package: torch was 0.1 and is",
        "checkpoint: ",
    ):
        assert part in missing, missing


def test_a_run_without_a_configuration_is_refused(isnet_there, tmp_path):
    run_id = TrackingServer(resolve().tracking).client.create_run("0").info.run_id
    refused = isnet_there("runs", "reproduce", run_id, "-o", tmp_path / "again")
    assert refused.status == 2
    assert "is no training run" in refused.err
    assert not (tmp_path / "again").exists()
