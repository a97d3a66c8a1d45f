"""`isnet runs` and `isnet ui`: runs are listed and synced, pages are served."""


def test_runs_are_listed_and_nothing_is_left_to_send(isnet_there, project):
    runs = isnet_there("runs", "list", "--json").json()["runs"]
    assert project.run["run_id"] in [run["run_id"] for run in runs]
    assert isnet_there("runs", "sync", "--json").json()["left"] == 0
    shown = isnet_there("runs", "show", project.run["run_id"], "--json").json()
    assert shown["tags"]["trainplane.dataset_digest"]


def test_the_pages_are_where_the_command_says(isnet, monkeypatch):
    from jobs.commands import runs

    started = []

    class Server:
        def __init__(self, command, **options):
            started.append(command)

        def wait(self):
            return 0

    monkeypatch.setattr(runs.subprocess, "Popen", Server)
    ran = isnet("ui", "--port", "0", "--json")
    assert ran.status == 0
    [command] = started
    served = command[command.index("--port") + 1]
    assert int(served) > 0
    assert ran.json()["address"] == f"http://127.0.0.1:{served}"
