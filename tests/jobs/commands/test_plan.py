"""`isnet plan train`: what a run would take, all reasons for refusing it, and that asking leaves no trace."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import SMALL

from isnet.training.memory import state_bytes
from jobs.config import load_run_config
from jobs.isnet_task import ISNetTask
from jobs.train.memory import memory_of, new_state_bytes
from jobs.train.resources import ranks_here
from jobs.train.throughput import speed_key
from trainplane.errors import RunFailed
from trainplane.train.checkpoint.state import capture
from trainplane.train.run_key import exclusive
from trainplane.train.world import World


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
    assert "did you mean 'steps'" in error
    assert "did you mean 'style'" in error


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
    assert "stands at step 4 already" in refused.err
    assert f"is training {folder}" in refused.err
    assert isnet_there("plan", "train", "demo", *SMALL, "--fresh", "--json").json()["run"].endswith(".2")


def test_best_by_a_metric_without_held_out_pictures_is_refused(isnet, photos):
    isnet("data", "pack", photos, "mine")
    best = ("data.val=null", "train.keep_best=2", "train.best_metric=val/psnr")
    refused = isnet("plan", "train", "demo", *SMALL, *best)
    assert refused.status == 2
    assert "set data.val=" in refused.err


@pytest.fixture(scope="module")
def small():
    return load_run_config("ablation_base+laptop", ["data.size=32", "model.width=4", "model.blocks=1"])


def test_the_state_is_reckoned_to_the_byte(small):
    task = ISNetTask(small, torch.device("cpu"))
    batch = {
        "image": torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), np.uint8)),
        "mask": torch.ones(4, 1, 32, 32, dtype=torch.bool),
    }
    batch["mask"][..., :9] = False
    task.step([batch], global_batch=4, reduce=World())
    real = capture(task, step=1)
    reckoned = memory_of(small, ranks_here(small)).state
    assert reckoned == state_bytes(task.modules(), task.optimizers())
    assert reckoned == sum(tensor.nbytes for tensor in real.tensors.values())
    # A third of BaseModel's weights never move; only a step tells.
    assert new_state_bytes(small) > reckoned


def test_memory_grows_with_the_batch_and_not_with_turns(small):
    def step(**train):
        config = small.model_copy(update={"train": small.train.model_copy(update=train)})
        return memory_of(config, ranks_here(config)).step

    whole = step(global_batch=8)
    in_turns = step(global_batch=8, micro_batch=2)
    assert in_turns < whole / 1.2
    assert in_turns == pytest.approx(step(global_batch=16, micro_batch=2), rel=0.1)


def test_speed_is_alike_where_what_costs_time_is(small):
    def key(*overrides):
        return speed_key(load_run_config("demo", list(overrides)), gpu=False)

    assert key() == key("train.steps=9", "train.lr_g=0.1", "data.train=other", "loss.style=1", "train.seed=3")
    others = ["data.size=128", "model.blocks=2", "loss.style=0", "train.global_batch=4", "train.workers=1"]
    resized = "data.resize=null"
    assert len({key(), *(key(other, resized) for other in others)}) == 6


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
