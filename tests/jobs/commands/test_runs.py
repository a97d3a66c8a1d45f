"""`isnet runs`: runs are listed and synced."""


def test_runs_are_listed_and_nothing_is_left_to_send(isnet_there, project):
    runs = isnet_there("runs", "list", "--json").json()["runs"]
    assert project.run["run_id"] in [run["run_id"] for run in runs]
    assert isnet_there("runs", "sync", "--json").json()["left"] == 0
    shown = isnet_there("runs", "show", project.run["run_id"], "--json").json()
    assert shown["tags"]["trainplane.dataset_digest"]
