"""A project that was moved finds what it recorded, and leaves its former place alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trainplane.tracking.client import TrackingServer
from trainplane.tracking.local.database import connection
from trainplane.tracking.local.moved import former_home
from trainplane.tracking.run_id import RunSpec
from trainplane.tracking.spool.meta import SpoolMeta, read_meta, write_meta


def server_in(home: Path) -> TrackingServer:
    return TrackingServer(f"sqlite:///{home}/mlflow.db")


@pytest.fixture
def home(tmp_path: Path, empty_tracking_db: Path) -> Path:
    """A home whose name SQL and JSON have to quote, with a run, a version, a dataset and a spool."""
    home = tmp_path / "it's ü" / "home"
    home.mkdir(parents=True)
    client = server_in(home).client
    number = client.create_experiment("lab", artifact_location=str(home / "artifacts" / "lab"))
    run_id = client.create_run(number).info.run_id
    # Not by the client, which remembers a run's folder for its process.
    artifacts = home / "artifacts" / "lab" / run_id / "artifacts"
    artifacts.mkdir(parents=True)
    (artifacts / "config.json").write_text("{}")
    client.set_tag(run_id, "trainplane.checkpoints", f"{home}/checkpoints/demo-1")
    client.set_tag(run_id, "elsewhere", f"s3://bucket{home}/checkpoints and {home}-2/x")
    client.create_registered_model("m")
    client.create_model_version("m", f"{home}/artifacts/lab/m", run_id=run_id)
    spool = home / "spool" / run_id
    spool.mkdir(parents=True)
    spec = RunSpec("lab", "key", "name", f"{home}/artifacts")
    write_meta(spool, SpoolMeta(run_id, f"sqlite:///{home}/mlflow.db", spec))
    return home


@pytest.mark.parametrize("is_copy", [False, True])
def test_all_addresses_follow_the_folder(home: Path, tmp_path: Path, is_copy: bool) -> None:
    new = tmp_path / "new" / "place"
    shutil.copytree(home, new) if is_copy else shutil.move(home, new)
    before = sorted(home.rglob("*"))
    client = server_in(new).client
    [run] = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert run.data.tags["trainplane.checkpoints"] == f"{new}/checkpoints/demo-1"
    # Other stores and other folders only look alike.
    assert run.data.tags["elsewhere"] == f"s3://bucket{home}/checkpoints and {home}-2/x"
    client.log_text(run.info.run_id, "more", "more.txt")
    assert {entry.path for entry in client.list_artifacts(run.info.run_id)} == {"config.json", "more.txt"}
    assert client.get_model_version("m", "1").source == f"{new}/artifacts/lab/m"
    meta = read_meta(new / "spool" / run.info.run_id)
    assert meta.run_spec is not None
    assert (meta.tracking, meta.run_spec.artifact_root) == (f"sqlite:///{new}/mlflow.db", f"{new}/artifacts")
    # Nothing is written to the former place, and of a copy the original stays as it was.
    assert sorted(home.rglob("*")) == before
    if is_copy:
        assert str(home) in json.dumps(
            server_in(home).client.get_run(run.info.run_id).to_dictionary(), ensure_ascii=False
        )


def test_a_database_that_cannot_be_corrected_stays_as_it_is(home: Path, tmp_path: Path) -> None:
    new = Path(shutil.move(home, tmp_path / "new"))
    # The second table refuses, as a full disk would.
    with connection(new / "mlflow.db", may_write=True) as database:
        database.execute("CREATE TRIGGER full BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'full'); END")
    assert server_in(new).client.get_experiment_by_name("lab").artifact_location == f"{home}/artifacts/lab"


def test_only_a_home_that_was_made_here_is_followed(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    assert former_home("/old/home/artifacts/0", new) == "/old/home"
    assert former_home("file:///old/home/artifacts/0", new) == "/old/home"
    assert former_home(f"{new}/artifacts/0", new) is None
    # Not ours: MLflow's own folder, or a bucket.
    assert former_home("/old/home/mlruns/0", new) is None
    assert former_home("s3://bucket/artifacts/0", new) is None
    # The database alone was copied; its artifacts are where they were.
    old = tmp_path / "old"
    old.mkdir()
    assert former_home(f"{old}/artifacts/0", new) is None
    (new / "artifacts").mkdir()
    assert former_home(f"{old}/artifacts/0", new) == str(old)
