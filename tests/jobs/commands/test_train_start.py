"""`isnet train … train.start_from=…` and `isnet runs branch`: a new run from weights that exist."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from small_run import SMALL

import isnet
from jobs.config import load_run_config
from jobs.isnet_task import ISNetTask
from jobs.train import start
from trainplane.cluster.context import resolve
from trainplane.registry.package import data_of, download
from trainplane.registry.versions import ModelVersion
from trainplane.tracking.client import TrackingServer
from trainplane.train.start.prepare import located_start

FINE = (*SMALL, "train.lr_g=1e-5", "train.lr_d=1e-6")


@pytest.fixture
def client(project):
    return TrackingServer(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}").client


@pytest.fixture
def version(isnet_there, project):
    """The project's run as version 1 of a model of its own."""
    made = isnet_there("models", "register", project.run["run_id"], "--name", "begun", "--json")
    assert made.status == 0, made.err
    return made.json()["version"]


def trained(isnet, *words):
    ran = isnet(*words, "--json")
    assert ran.status == 0, ran.err
    return ran


def test_a_run_begins_at_another_and_record_page_recipe_and_card_name_it(isnet_there, project, client, tmp_path):
    ran = trained(isnet_there, "train", "demo", *FINE, f"train.start_from=runs:/{project.run['run_id'][:8]}")
    made = ran.json()
    assert made["run_id"] != project.run["run_id"]
    assert f"begins at {project.run['checkpoint']} (digest {project.run['state_digest'][:12]})" in ran.err
    (told,) = made["told"]
    assert "generator loaded" in told
    assert "discriminator loaded" in told
    assert "its moving average" in told
    run = client.get_run(made["run_id"])
    assert run.data.tags["trainplane.start_from"] == project.run["checkpoint"]
    assert run.data.tags["trainplane.start_digest"] == project.run["state_digest"]
    assert "begins at" in run.data.tags["mlflow.note.content"]
    report = json.loads(Path(client.download_artifacts(made["run_id"], "start.json")).read_text())
    assert report["fresh"]["moments of the optimisers"] == "always"
    # The first validation is the parent's last one.
    first = client.get_metric_history(made["run_id"], "val/psnr")[0]
    assert (first.step, first.value) == (0, project.run["metrics"]["val/psnr"])
    recipe = isnet_there("runs", "reproduce", made["run_id"], "-o", tmp_path / "again", "--json").json()
    assert [line for line in recipe["missing"] if not line.startswith("code:")] == []
    assert f"start_from_digest: {project.run['state_digest']}" in (tmp_path / "again" / "config.yaml").read_text()
    again = trained(isnet_there, "train", str(tmp_path / "again" / "config.yaml"), "--fresh").json()
    assert again["state_digest"] == made["state_digest"]
    registered = isnet_there("models", "register", made["run_id"], "--name", "finer", "--json").json()["version"]
    card = Path(client.download_artifacts(made["run_id"], f"cards/finer-{registered}.md")).read_text()
    assert f"begun at: `{project.run['checkpoint']}`" in card


def test_another_start_is_a_new_run_and_is_said_so(isnet_there, project, client):
    plain = trained(isnet_there, "train", "demo", *FINE, "train.seed=77").json()
    ran = trained(isnet_there, "train", "demo", *FINE, "train.seed=77", f"train.start_from={project.run['run_id'][:9]}")
    assert ran.json()["run_id"] != plain["run_id"]
    folder = plain["checkpoint"].split("/")[-2]
    assert f"it is a new run, not {folder}, which began at fresh weights" in ran.err


def test_a_version_gives_its_raw_checkpoint_or_its_folded_weights_and_both_predict_the_same(
    isnet_there, project, version
):
    context = resolve()
    config = located_start(load_run_config("demo", [*FINE, f"train.start_from=models:/begun/{version}"]), context)
    # The alias and the bare name lead to the same version.
    assert config.train.start_from_digest == project.run["state_digest"]
    assert located_start(load_run_config("demo", [*FINE, "train.start_from=begun"]), context).train == config.train
    raw = ISNetTask.read_start(config, context)
    address = f"models:/begun/{version}"
    package = download(ModelVersion.at(context.tracking_server, address), context.home / "cache" / "models")
    network = isnet.weights.load_model(data_of(package))
    folded = start._exported(data_of(package), "digest")
    assert "discriminator: " not in str(ISNetTask.plan_start(config, folded))
    expected = predict(network)
    for weights in (raw, folded):
        task = ISNetTask(without_vgg(config), torch.device("cpu"))
        report = ISNetTask.plan_start(config, weights)
        assert report.unfit == ()
        task.begin_at(weights)
        networks = task.modules()
        torch.testing.assert_close(predict(networks["generator"]), expected, rtol=0, atol=1e-4)
        assert torch.equal(predict(networks["ema"]), predict(networks["generator"]))
    assert report.fresh["discriminator"] == "the start has none"


def without_vgg(config):
    return config.model_copy(update={"loss": config.loss.model_copy(update={"perceptual": 0.0, "style": 0.0})})


@torch.no_grad()
def predict(network):
    image = torch.linspace(0, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    mask = torch.ones(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 0
    return network.eval()(image, mask)


def test_a_version_without_its_checkpoint_is_begun_at_its_folded_weights(isnet_there, project, client, tmp_path):
    made = trained(isnet_there, "train", "demo", *SMALL, "train.seed=5", "train.steps=2").json()
    registered = isnet_there("models", "register", made["run_id"], "--name", "folded", "--json").json()["version"]
    shutil.rmtree(made["checkpoint"].rpartition("/")[0])
    ran = trained(isnet_there, "train", "demo", *FINE, f"train.start_from=models:/folded/{registered}")
    (told,) = ran.json()["told"]
    assert "exported)" in told
    assert "discriminator fresh (the start has none)" in told
    first = client.get_metric_history(ran.json()["run_id"], "val/psnr")[0]
    assert first.value == pytest.approx(made["metrics"]["val/psnr"], abs=1e-3)


def test_mistakes_are_refused_in_a_sentence_and_leave_nothing(isnet_there, project, version, tmp_path):
    folders = sorted((project.folder / "home" / "checkpoints").iterdir())
    parent = project.run["run_id"]
    torch.save({"conv1.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "other_gen.pth")
    mistakes = {
        (f"train.start_from={parent}", "model.width=8"): "and this run trains name=isnet, width=8; set model.width=4",
        (f"train.start_from={parent}", "model.activation=tanh"): "set model.activation=leaky_relu",
        ("train.start_from=models:/begun/9",): "model 'begun' has no version 9 (it has: ",
        ("train.start_from=begun@none",): "alias 'none' points at nothing",
        ("train.start_from=classical:telea",): "has no trained weights",
        (f"train.start_from=author:{tmp_path}/other_gen.pth",): "other_gen.pth",
        (f"train.start_from=author:{tmp_path}/gone.pth",): "no checkpoint at",
        ("train.start_from=nothere",): "'nothere' is not a model",
    }
    for words, expected in mistakes.items():
        ran = isnet_there("train", "demo", *FINE, *words)
        assert (ran.status, expected in ran.err) == (2, True), (words, ran.err)
    itself = isnet_there("train", "demo", *SMALL, f"train.start_from={parent}")
    assert itself.status == 2
    assert "is of this run itself" in itself.err
    assert sorted((project.folder / "home" / "checkpoints").iterdir()) == folders


def test_what_fits_is_taken_where_that_is_asked_for(isnet_there, project):
    words = [*FINE, f"train.start_from={project.run['run_id']}", "model.discriminator_width=8"]
    refused = isnet_there("train", "demo", *words)
    assert refused.status == 2
    assert "or take what fits with train.start_from_strict=false" in refused.err
    (told,) = trained(isnet_there, "train", "demo", *words, "train.start_from_strict=false").json()["told"]
    assert "did not fit: model.discriminator_width is" in told
    assert "generator loaded" in told


def test_a_branch_goes_on_undisturbed_or_with_other_settings(isnet_there, project, client):
    longer = trained(isnet_there, "train", "demo", *SMALL, "train.seed=6").json()
    same = trained(isnet_there, "runs", "branch", longer["run_id"][:10], "--step", "2").json()
    assert same["run_id"] != longer["run_id"]
    assert same["state_digest"] == longer["state_digest"]
    other = trained(isnet_there, "runs", "branch", longer["run_id"], "--step", "2", "train.lr_g=1e-5").json()
    assert other["state_digest"] != longer["state_digest"]
    run = client.get_run(other["run_id"])
    assert run.data.tags["trainplane.start_step"] == "2"
    assert run.data.tags["trainplane.start_from"].endswith("/step-00000002")
    assert f"isnet runs branch {longer['run_id']} --step 2 train.lr_g=1e-5" in run.data.tags["mlflow.note.content"]
    # Once more it is the same run, which is done.
    again = trained(isnet_there, "runs", "branch", longer["run_id"], "--step", "2", "train.lr_g=1e-5").json()
    assert (again["run_id"], again["state_digest"]) == (other["run_id"], other["state_digest"])
    refused = isnet_there("runs", "branch", longer["run_id"], "--step", "3")
    assert refused.status == 2
    assert "has no checkpoint of step 3 (it has: " in refused.err
