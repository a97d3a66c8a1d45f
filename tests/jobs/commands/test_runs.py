"""`isnet runs`: runs are listed, shown and synced."""

from jobs.tracking.current_settings import current_settings, saved_state


def test_runs_are_listed_and_nothing_is_left_to_send(isnet_there, project):
    runs = isnet_there("runs", "list", "--json").json()["runs"]
    assert project.run["run_id"] in [run["run_id"] for run in runs]
    assert isnet_there("runs", "sync", "--json").json()["left"] == 0
    shown = isnet_there("runs", "show", project.run["run_id"], "--json").json()
    assert shown["tags"]["trainplane.dataset_digest"]


def test_a_run_that_went_on_shows_what_it_goes_on_with(isnet_there, project):
    run_id = project.run["run_id"]
    shown = isnet_there("runs", "show", run_id, "--json").json()
    assert shown["saved_step"] == project.run["step"]
    assert (shown["params"]["train.steps"], shown["settings"]["train.steps"]) == ("4", "4")
    recorded = {"typed": "demo train.steps=4", "train.steps": "4", "train.lr_g": "0.1", "data.train": "mine"}
    now = current_settings(
        recorded, {"train.steps": 9, "train.lr_g": 0.1, "train.seed": 3}, "demo train.steps=12 data.train=mine"
    )
    assert now == {**recorded, "typed": "demo train.steps=12 data.train=mine", "train.steps": "12"}
    # Killed before its first checkpoint, or recorded by older code.
    assert current_settings(recorded, {}, None) == recorded
    assert saved_state({}) == (None, {})
    assert saved_state({"trainplane.checkpoints": "/nowhere/at/all"}) == (None, {})
    assert f"saved: step {project.run['step']} of 4" in isnet_there("runs", "show", run_id).out


def test_runs_are_selected_and_sorted_by_metrics_and_by_settings_that_nobody_typed(isnet_there, project, monkeypatch):
    from jobs import api
    from trainplane.tracking.local import lists

    run_id = project.run["run_id"]
    metric = project.run["metrics"]["val/psnr"]
    where = f"val/psnr > {metric - 0.1:.3f} and style = 250 and status = FINISHED"
    listed = isnet_there("runs", "list", "--where", where, "--sort", "val/psnr", "--json").json()["runs"]
    assert run_id in [run["run_id"] for run in listed]
    assert listed == sorted(listed, key=lambda run: -run["values"]["val/psnr"])
    assert listed[0]["values"]["loss.style"] == 250.0
    assert isnet_there("runs", "list", "--where", "style = 9").out.startswith(
        "no runs that fit; all of them: isnet runs"
    )
    refused = isnet_there("runs", "list", "--sort", "val/psnrr")
    assert (refused.status, "did you mean 'val/psnr'?" in refused.err) == (2, True)
    # MLflow's client gives the same list.
    local = api.runs(where, "train.seed:asc")
    monkeypatch.setattr(lists, "SCHEMA", "another")
    assert api.runs(where, "train.seed:asc") == local
    assert local
