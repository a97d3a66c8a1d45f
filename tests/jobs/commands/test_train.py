"""`isnet train`: a run is recorded once, resumed by the same command, and trained by one process."""

import json
from pathlib import Path
from urllib.parse import quote

from small_run import SMALL


def test_the_same_command_goes_on_and_fresh_starts_anew(isnet_there, project):
    isnet, settings = isnet_there, [*SMALL, "train.seed=3"]
    first = isnet("train", "demo", *settings, "--json").json()
    again = isnet("train", "demo", *settings, "--json").json()
    assert (again["run_id"], again["state_digest"]) == (first["run_id"], first["state_digest"])
    longer = isnet("train", "demo", *settings, "train.steps=6", "tracking.register_as=r", "--json").json()
    assert (longer["run_id"], longer["step"]) == (first["run_id"], 6)
    assert longer["registered"] == {"name": "r", "version": "1"}
    fresh = isnet("train", "demo", *settings, "--fresh", "--json").json()
    assert fresh["run_id"] != first["run_id"]
    assert fresh["state_digest"] == first["state_digest"]


def test_a_run_is_recorded_once_with_curves_gallery_and_lineage(isnet_there, project):
    from trainplane.tracking.client import TrackingServer
    from trainplane.tracking.tracker import newest_image

    isnet_there("train", "demo", *SMALL)
    client = TrackingServer(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}").client
    run = client.get_run(project.run["run_id"])
    assert run.info.status == "FINISHED"
    # Parameters are what was typed; the whole configuration is an artifact.
    assert run.data.params["typed"] == f"demo {' '.join(SMALL)}"
    assert run.info.run_name.startswith("demo ")
    assert run.data.params["model.width"] == "4"
    assert "loss.style" not in run.data.params
    config = json.loads(Path(client.download_artifacts(run.info.run_id, "config.json")).read_text())
    assert config["loss"]["style"] == 250.0
    assert run.data.tags["trainplane.state_digest"] == project.run["state_digest"]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "train/generator")] == [2, 4]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "dashboard/1 val psnr")] == [0, 2, 4]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "dashboard/3 train generator")] == [2, 4]
    # A run that went through has each curve once.
    assert not [key for key in run.data.metrics if key.startswith("without checkpoint/")]
    assert [m.step for m in client.get_metric_history(run.info.run_id, "val/psnr")] == [0, 2, 4]
    images = {entry.path for entry in client.list_artifacts(run.info.run_id, "images") if entry.path.endswith(".png")}
    # One of each validation, and the newest once more, where the pages open.
    assert len(images) == 4
    assert run.data.tags["mlflow.note.content"].startswith(f"**val/psnr {run.data.metrics['val/psnr']:.4g}")
    [newest] = [path for path in images if f"images/{Path(path).name}" == newest_image("gallery/000")]
    assert quote(newest, safe="") in run.data.tags["mlflow.note.content"]
    experiment = client.get_experiment(run.info.experiment_id)
    assert "metrics.`val/psnr`" in experiment.tags["mlflow.sharedViewState.results"]
    assert {i.dataset.name for i in run.inputs.dataset_inputs} == {"mine", "held"}


def test_a_second_process_does_not_touch_the_record_of_a_run_that_trains(isnet_there, project):
    from trainplane.tracking.client import TrackingServer
    from trainplane.train.run_key import exclusive

    client = TrackingServer(f"sqlite:///{project.folder / 'home' / 'mlflow.db'}").client
    before = dict(client.get_run(project.run["run_id"]).data.tags)
    folder = project.run["checkpoint"].split("/")[-2]
    with exclusive(project.folder / "home", folder, doing="training it"):
        refused = isnet_there("train", "demo", *SMALL)
    assert refused.status == 2
    assert f"is training {folder}" in refused.err
    assert dict(client.get_run(project.run["run_id"]).data.tags) == before
