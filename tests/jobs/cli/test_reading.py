"""Commands that only read leave nothing behind: not in an empty folder, not in a home that may only be read."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from jobs.cli.main import main
from trainplane.cluster.context import resolve
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.runs import end_run, find_or_create_run

READING = [
    "data list",
    "data show mine",
    "data verify mine",
    "doctor",
    "inpaint photo.png mask.png -o out.png",
    "jobs list",
    "models audit m",
    "models list",
    "models show m",
    "plan train demo data.train=mine data.val=null",
    "runs list",
    "runs reap",
    "runs reproduce 12ab",
    "runs show 12ab",
    "stack status",
    "tune list",
    "tune show search_demo",
]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder."""
    found = {path: path.lstat() for path in folder.rglob("*")}
    return {str(path): (about.st_size, about.st_mtime_ns) for path, about in found.items() if not path.is_dir()} | {
        str(path): (0, 0) for path in found if path.is_dir()
    }


def run(words: str) -> int:
    try:
        return main(words.split())
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder without any home, in which commands run."""
    for name in ("ISNET_CONTEXT", "ISNET_HOME", "RAY_ADDRESS", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", READING)
def test_in_an_empty_folder_nothing_is_made(elsewhere, words, capsys):
    status = run(words)
    assert status in (0, 1, 2)
    assert files(elsewhere) == {}
    assert "Traceback" not in capsys.readouterr().err


def without_rights(words: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process that permissions bind, also where the tests run as root."""
    command = [sys.executable, "-m", "jobs.cli", *words.split()]
    if os.geteuid() == 0:
        command = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture
def home_to_read(monkeypatch, empty_tracking_db, elsewhere):
    """A home with a run, a letter of older code and a dataset-less store, that this process may not write to."""
    # Below a folder that everybody may enter, which pytest's are not.
    place = Path(tempfile.mkdtemp(prefix="isnet-reading-"))
    home = place / "home"
    home.mkdir()
    shutil.copyfile(empty_tracking_db, home / "mlflow.db")
    monkeypatch.setenv("ISNET_HOME", str(home))
    context = resolve()
    run = find_or_create_run(
        context.tracking_server, RunSpec("isnet", run_key="k", run_name="first", artifact_root=context.artifacts)
    )
    end_run(context.tracking_server, run.run_id, "FINISHED")
    (home / "outbox").mkdir()
    (home / "outbox" / "torn.json").write_text("{")
    (home / "outbox" / "whole.json").write_text(
        json.dumps({"tracking": "http://me:hush@mlflow:5000", "run_id": "whole"})
    )
    for path in (place, *place.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    monkeypatch.chdir(place)
    yield home, run.run_id
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(place)


@pytest.mark.nightly
@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root, and no way to be less")
def test_a_home_that_may_only_be_read_is_read_and_stays_as_it_is(home_to_read):
    home, run_id = home_to_read
    before = files(home.parent)
    listed = without_rights("runs list --json")
    assert listed.returncode == 0, listed.stderr
    shown = without_rights(f"runs show {run_id[:6]} --json")
    assert json.loads(shown.stdout)["run_id"] == run_id
    for words in READING:
        ran = without_rights(words)
        assert ran.returncode in (0, 1, 2), ran.stderr
        assert "Traceback" not in ran.stderr, ran.stderr
    assert files(home.parent) == before
    assert [row["run_id"] for row in json.loads(listed.stdout)["runs"]] == [run_id]
    # What waits is told, not moved; an address that cannot be read is null.
    assert {row["run_id"]: row["tracking"] for row in json.loads(listed.stdout)["waiting"]} == {
        "torn": None,
        "whole": "http://mlflow:5000",
    }
