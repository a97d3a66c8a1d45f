"""What others' searches do wrong, done by ours on real Ray and MLflow: NaN, kills, identities, take-overs, deadlocks.

Each test is one of the scripts that showed the fault, with our commands in place of Ray's pieces. The trials are
trainings of a task of a few numbers, so that almost all of the time is Ray's own.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import nan_task
import noise_datasets
import pytest
import yaml

from trainplane.tracking.client import TrackingServer

SUPPORT = Path(nan_task.__file__).parent
DEADLINE_S = 900


class Stage:
    """A folder with data, a base and a search file; commands run in it as a user runs them."""

    def __init__(self, folder, empty_tracking_db):
        self.folder = folder
        self.db = empty_tracking_db
        noise_datasets.make(folder / "data")

    def write(self, *, train=None, trouble=None, base=None, **search):
        data = {"train": str(self.folder / "data/train"), "val": str(self.folder / "data/val"), "val_samples": 5}
        steps = {"steps": 27, "global_batch": 4, "workers": 1, "checkpoint_every": 3, "validate_every": 1}
        run = {
            "name": "tiny",
            "task": "nan_task:NanTask",
            "data": data,
            "train": {**steps, "log_every": 1, "lr_g": 0.01, "lr_d": 0.01, **(train or {})},
            "tracking": {"experiment": "tiny", "gallery": 0},
            "trouble": trouble or {},
            **(base or {}),
        }
        made = {"name": "tiny-search", "base": str(self.folder / "base.yaml"), "search": search}
        (self.folder / "base.yaml").write_text(yaml.safe_dump(run))
        (self.folder / "search.yaml").write_text(yaml.safe_dump(made))

    def start(self, home, *words):
        home = self.folder / home
        home.mkdir(exist_ok=True)
        if not (home / "mlflow.db").exists():
            (home / "mlflow.db").write_bytes(self.db.read_bytes())
        path = os.pathsep.join([str(SUPPORT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "ISNET_HOME": str(home), "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        environment.pop("ISNET_CONTEXT", None)
        command = [sys.executable, "-m", "jobs.cli", "tune", *(words or ("search.yaml",)), "--json"]
        with open(home / "stderr.log", "ab") as log:
            return subprocess.Popen(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=log)

    def run(self, home, *words):
        process = self.start(home, *words)
        out, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, (self.folder / home / "stderr.log").read_text()[-3000:]
        return json.loads(out)

    def records(self, home):
        """Records in the journal so far."""
        return sum(
            p.read_bytes().count(b"\n") for p in (self.folder / home).glob("checkpoints/searches/*/journal.jsonl")
        )

    def kill_at(self, home, records):
        """Start, and kill without a word as soon as the journal is so long."""
        process = self.start(home)
        deadline = time.monotonic() + DEADLINE_S
        while self.records(home) < records:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def runs(self, home):
        client = TrackingServer(f"sqlite:///{self.folder / home / 'mlflow.db'}").client
        return client, client.search_runs([client.get_experiment_by_name("tiny").experiment_id])


@pytest.fixture
def stage(tmp_path, empty_tracking_db):
    return Stage(tmp_path, empty_tracking_db)


def told(report):
    return report["rungs"], [(t["settings"], t["step"], t["status"], repr(t["metrics"])) for t in report["trials"]]


NUMBERS = {"trouble.number": {"choice": list(range(8))}}
RANK = {"metric": "val/rank", "mode": "min"}


@pytest.mark.nightly
@pytest.mark.parametrize("place", ["metric", "loss"])
def test_a_trial_of_nan_is_gone_at_once_and_never_a_survivor(stage, place):
    """peers/asha_nan.py, where Ray's ASHA runs NaN trials to their end."""
    stage.write(
        trouble={"nan_in": place},
        base={"guard": {"non_finite": "stop"}},
        algorithm="grid",
        asha={"first": 3},
        objective=RANK,
        space=NUMBERS,
        concurrent=2,
    )
    report = stage.run("home")
    lost = {t["settings"]["trouble.number"]: t for t in report["trials"] if t["status"] == "nan"}
    assert sorted(lost) == [3, 7]
    # Before the first step where the metric is lost from the start; at the guard's word where the loss is.
    assert {t["step"] for t in lost.values()} <= ({0} if place == "metric" else set(range(3)))
    assert report["best"]["config"] == {"trouble.number": 0}
    assert report["spent"]["waste"]["NaN"]["steps"] <= 0.02 * report["spent"]["steps"] + (0 if place == "metric" else 6)


@pytest.mark.real
def test_killed_twice_it_has_the_same_rungs_and_one_run_for_each_trial(stage):
    """peers/tuner_restore_loses_rungs.py and peers/mlflow_callback_restore.py in one."""
    stage.write(
        train={"steps": 9},
        trouble={"pause_s": 0.05},
        # Only then it can be compared with an undisturbed one.
        order="fixed",
        algorithm="tpe",
        startup=3,
        trials=5,
        concurrent=2,
        asha={"first": 3},
        objective={"metric": "val/error", "mode": "min"},
        constraints=["lr_d <= lr_g"],
        space={"train.lr_g": {"log_uniform": [1e-4, 0.1]}, "train.lr_d": {"log_uniform": [1e-4, 0.1]}},
    )
    straight = stage.run("straight")
    for records in (10, 22):
        stage.kill_at("killed", records)
    report = stage.run("killed")
    assert told(report) == told(straight)
    assert report["spent"]["steps"] == straight["spent"]["steps"]
    # What was behind a checkpoint (every third step, two trials at once, two kills) is not paid again.
    assert report["spent"]["waste"]["repeated"]["steps"] <= 2 * 2 * 3

    client, runs = stage.runs("killed")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.run_id for run in parents] == [report["search_run_id"]]
    assert len(children) == len(report["trials"])
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in children:
        steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, "val/error"))
        assert set(steps.values()) == {1}, steps


@pytest.mark.nightly
def test_a_population_takes_over_weights_and_settings_and_mlflow_puts_up_with_it(stage):
    """peers/pbt_mlflow_crash.py, which dies at its first take-over."""
    stage.write(
        train={"steps": 12},
        algorithm="pbt",
        pbt={"population": 2, "every": 3, "quantile": 0.5, "resample": 0},
        concurrent=2,
        objective={"metric": "val/error", "mode": "min"},
        space={"train.lr_g": {"log_uniform": [1e-5, 0.3]}, "train.lr_d": {"log_uniform": [1e-5, 0.3]}},
    )
    report = stage.run("home")
    taken = [(t["number"], one) for t in report["trials"] for one in t.get("takeovers", [])]
    assert len(taken) == 3
    assert {t["step"] for t in report["trials"]} == {12}
    client, runs = stage.runs("home")
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}
    number, one = taken[-1]
    run_id = report["trials"][number]["run_id"]
    points = client.get_metric_history(run_id, "setting/train.lr_g")
    assert {point.step: point.value for point in points}[one["step"]] == pytest.approx(one["settings"]["train.lr_g"])
    assert "trainplane.exploit.0" in client.get_run(run_id).data.tags
    # Nobody holds on to a donor's checkpoint once the search is over; the best one's is pinned.
    pins = [p.name for p in (stage.folder / "home" / "checkpoints").glob("*/pins/*/*.json")]
    assert len(pins) == 1


@pytest.mark.nightly
def test_trials_of_two_workers_do_not_wait_for_each_other(stage):
    """peers/tune_train_deadlock.py, which hangs for ever: here as many run as fit, one after the other."""
    stage.write(
        train={"steps": 3, "workers": 2, "cpus_per_worker": (os.cpu_count() or 2) / 2 - 0.1},
        algorithm="grid",
        objective=RANK,
        space={"trouble.number": {"choice": [0, 1]}},
    )
    report = stage.run("home")
    assert report["at_once"] == 1
    assert [trial["status"] for trial in report["trials"]] == ["finished"] * 2
    refused = stage.start("home", "search.yaml", f"train.cpus_per_worker={os.cpu_count()}", "train.workers=2")
    assert refused.wait(DEADLINE_S) == 2
    assert "for the trial itself" in (stage.folder / "home" / "stderr.log").read_text()


@pytest.mark.nightly
def test_a_trial_whose_process_died_is_started_again_and_goes_on_from_its_checkpoint(stage):
    stage.write(
        train={"steps": 9},
        trouble={"dies_once": str(stage.folder / "died")},
        algorithm="grid",
        objective=RANK,
        space={"trouble.number": {"choice": [0, 1]}},
        concurrent=2,
    )
    report = stage.run("home")
    assert (stage.folder / "died").exists()
    assert [trial["status"] for trial in report["trials"]] == ["finished"] * 2
    # It died after step 7; the checkpoint of step 6 may still have been on its way, that of step 3 was stored.
    assert report["spent"]["waste"]["repeated"]["steps"] <= 4
    _, runs = stage.runs("home")
    assert len(runs) == 3
    assert {run.info.status for run in runs} == {"FINISHED"}


@pytest.mark.nightly
def test_a_metric_that_no_trial_reports_is_told_with_those_there_are(stage):
    stage.write(objective={"metric": "val/psnr", "mode": "max"}, trials=2, space=NUMBERS)
    process = stage.start("home")
    assert process.wait(DEADLINE_S) == 2
    assert "validation reports val/error, val/rank" in (stage.folder / "home" / "stderr.log").read_text()
