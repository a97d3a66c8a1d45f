"""Datasets, checkpoints, spools, journals, registered models and pending results of commit d1d4bfd are still read."""

import io
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from project_fixtures import runner

from trainplane.testing.mlflow_server import tracking_server

ARCHIVE = Path(__file__).parent / "d1d4bfd.tar.xz"
# Artifacts' addresses in the registry are absolute, so it is unpacked where it was written.
FOLDER = Path("/tmp/isnet-d1d4bfd")
SERVER_PORT = 45871
SETTINGS_TEXT = (
    "train.workers=1 train.global_batch=2 data.size=32 data.resize=40 model.width=4 model.discriminator_width=4"
    " train.checkpoint_every=2 train.validate_every=4 tracking.gallery=1 train.threads=1 loss.l1=0 loss.adversarial=0"
    " loss.feature_matching=0 loss.style=0 loss.perceptual=0 data.train=mine data.val=held"
)
SETTINGS = SETTINGS_TEXT.split()


@pytest.fixture(scope="module")
def unpacked():
    """The unpacked folder; once for all tests, because MLflow keeps a database open by its address."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(FOLDER.parent, filter="data")
    yield FOLDER
    shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture
def isnet(unpacked, monkeypatch, capfd):
    """Runs a command in the old folder, over its home."""
    for name in ("ISNET_CONTEXT", "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ISNET_HOME", str(unpacked / "home"))
    monkeypatch.chdir(unpacked)
    return runner(capfd)


def printed(name):
    """The JSON that the old code printed."""
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_datasets_are_sound(isnet):
    for name in ("mine", "held"):
        assert isnet("data", "verify", name, "--json").json()["sound"] is True


def test_a_finished_run_has_the_state_that_was_recorded(isnet):
    old = printed("run.json")
    ran = isnet("train", "demo", "train.steps=4", *SETTINGS, "--json")
    assert ran.status == 0, ran.err
    assert ran.json()["state_digest"] == old["state_digest"]


def test_a_run_resumes_from_its_checkpoint_as_the_same_run(isnet):
    old = printed("run.json")
    ran = isnet("train", "demo", "train.steps=6", *SETTINGS, "--json")
    assert ran.status == 0, ran.err
    assert (ran.json()["run_id"], ran.json()["step"]) == (old["run_id"], 6)
    shown = isnet("runs", "show", old["run_id"], "--json").json()
    assert shown["run_id"] == old["run_id"]
    assert "step 1/6" not in ran.err


def test_what_was_recorded_during_an_outage_is_sent_once(isnet, tracking_uri, tmp_path):
    old = printed("away.json")
    with tracking_server(tracking_uri, port=SERVER_PORT, artifacts=str(tmp_path / "artifacts")) as address:
        assert address.endswith(str(SERVER_PORT))
        sent = isnet("runs", "sync", "--context", "away", "--json")
        assert sent.status == 0, sent.err
        (run,) = isnet("runs", "list", "--context", "away", "--json").json()["runs"]
    assert run["status"] == "FINISHED"
    assert run["metrics"]["val/psnr"] == pytest.approx(old["metrics"]["val/psnr"])


def test_a_pending_evaluation_reaches_its_run_and_its_version(isnet):
    run_id = printed("evaluate.json")["run_id"]
    sent = isnet("runs", "sync", "--json")
    assert sent.status == 0, sent.err
    assert not list((FOLDER / "home" / "outbox").glob("*.json"))
    runs = {run["run_id"]: run for run in isnet("runs", "list", "--json").json()["runs"]}
    assert runs[run_id]["status"] == "FINISHED"
    (version,) = isnet("models", "show", "small", "--json").json()["versions"]
    assert version["evaluation"]["pictures"] == printed("evaluate.json")["pictures"]


def test_a_promoted_model_is_read_and_fills_as_before(isnet):
    (old,) = printed("models.json")["versions"]
    (version,) = isnet("models", "show", "small", "--json").json()["versions"]
    for key in ("version", "aliases", "run_id", "dataset_digest", "config_digest", "gates"):
        assert version[key] == old[key], key
    assert isnet("models", "audit", "small", "--verify").status == 0
    before = np.asarray(Image.open(io.BytesIO((FOLDER / "filled.png").read_bytes())), dtype=int)
    # At the photo's own size, as everything was filled then.
    model = ("--model", "models:/small@production", "--refine", "off")
    filled = isnet("inpaint", "photos/1.jpg", "hole.png", "-o", "again.png", *model)
    assert filled.status == 0, filled.err
    assert np.abs(np.asarray(Image.open("again.png"), dtype=int) - before).max() <= 1


def test_a_search_is_the_same_search_with_the_same_ranking(isnet):
    old = printed("show.json")
    shown = isnet("tune", "show", "search.yaml", "--json")
    assert shown.status == 0, shown.err
    new = shown.json()
    for key in ("ended", "trials", "best", "rungs", "spent", "journal"):
        assert new[key] == old[key], key
