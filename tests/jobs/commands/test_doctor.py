"""`isnet doctor`: stores are checked without leaving a trace."""

import pytest

from trainplane.cluster.stack.layout import StackLayout, StackState
from trainplane.storage import NotFound
from trainplane.storage.folder import FolderStore
from trainplane.storage.store import StorageError

STORES = ("datasets", "checkpoints", "artifacts", "audit")


@pytest.fixture
def stores(home):
    for name in STORES:
        (home / name).mkdir(parents=True)


def test_doctor_finds_a_local_machine_well_and_makes_nothing(isnet, home):
    before = sorted(home.rglob("*"))
    ran = isnet("doctor", "--json")
    assert ran.status == 0, ran.out
    assert ran.json()["ok"]
    assert sorted(home.rglob("*")) == before


def test_doctor_of_a_stack_that_is_down_says_how_to_start_it_and_asks_no_server(isnet, home, tmp_path):
    layout = StackLayout(home / "stack")
    layout.root.mkdir(parents=True)
    layout.save(StackState("moto", {"mlflow": 9}, {}))
    (tmp_path / "isnet.toml").write_text(
        '[context.stack]\nray = "http://127.0.0.1:9"\ntracking = "http://127.0.0.1:9"\nstore = "s3://isnet"\n'
    )
    ran = isnet("doctor", "--context", "stack", "--json")
    assert ran.status == 1
    errors = [finding for finding in ran.json()["findings"] if finding["level"] == "error"]
    assert [(error["what"], error["remedy"]) for error in errors] == [
        ("context 'stack' is the stack of this machine, which is down", "start it: isnet stack up")
    ]
    # Every other command is refused as fast.
    assert "start it: isnet stack up" in isnet("jobs", "list", "--context", "stack").err


def test_doctor_names_a_store_that_loses_objects(isnet, stores, monkeypatch):
    def lost(self, key, **part):
        raise NotFound(key)

    monkeypatch.setattr(FolderStore, "read", lost)
    ran = isnet("doctor", "--json")
    assert ran.status == 1
    assert any("not there a moment after" in finding["what"] for finding in ran.json()["findings"])


def test_doctor_names_a_store_that_cannot_be_written(isnet, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "isnet.toml").write_text(f'[context.bad]\ncheckpoints = "{tmp_path}/file/below"\n')
    ran = isnet("doctor", "--context", "bad", "--json")
    assert ran.status == 1
    assert any(f["level"] == "error" and "checkpoints" in f["what"] for f in ran.json()["findings"])


@pytest.mark.parametrize(("place", "level", "status"), [("datasets", "warning", 0), ("checkpoints", "error", 1)])
def test_doctor_takes_datasets_that_can_only_be_read_for_enough(isnet, stores, monkeypatch, place, level, status):
    def refused(self, key, data):
        if self.address.endswith(f"/{place}"):
            raise StorageError(f"cannot write {key} (AccessDenied); check the credentials")
        write(self, key, data)

    write = FolderStore.write
    monkeypatch.setattr(FolderStore, "write", refused)
    ran = isnet("doctor", "--json")
    assert ran.status == status
    assert [f["level"] for f in ran.json()["findings"] if "AccessDenied" in f["what"]] == [level]


def test_doctor_writes_nothing_into_the_audit_and_leaves_nothing_elsewhere(isnet, home, stores, monkeypatch):
    keys = []
    for verb in ("write", "create"):
        original = getattr(FolderStore, verb)

        def noted(self, key, data, original=original):
            keys.append(f"{self.address}/{key}")
            return original(self, key, data)

        monkeypatch.setattr(FolderStore, verb, noted)
    assert isnet("doctor").status == 0
    assert len(keys) == 6
    assert not [key for key in keys if "audit" in key]
    assert not list(home.rglob("doctor-*"))
