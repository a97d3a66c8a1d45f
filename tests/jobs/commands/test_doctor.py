"""`isnet doctor`: stores are checked without leaving a trace."""

import pytest

from trainplane.storage.folder import FolderStore
from trainplane.storage.store import StorageError


def test_doctor_finds_a_local_machine_well(isnet):
    ran = isnet("doctor", "--json")
    assert ran.status == 0, ran.out
    assert ran.json()["ok"]


def test_doctor_names_a_store_that_cannot_be_written(isnet, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "isnet.toml").write_text(f'[context.bad]\ncheckpoints = "{tmp_path}/file/below"\n')
    ran = isnet("doctor", "--context", "bad", "--json")
    assert ran.status == 1
    assert any(f["level"] == "error" and "checkpoints" in f["what"] for f in ran.json()["findings"])


@pytest.mark.parametrize(("place", "level", "status"), [("datasets", "warning", 0), ("checkpoints", "error", 1)])
def test_doctor_takes_datasets_that_can_only_be_read_for_enough(isnet, home, monkeypatch, place, level, status):
    def refused(self, key, data):
        if self.address.endswith(f"/{place}"):
            raise StorageError(f"cannot write {key} (AccessDenied); check the credentials")
        write(self, key, data)

    write = FolderStore.write
    monkeypatch.setattr(FolderStore, "write", refused)
    ran = isnet("doctor", "--json")
    assert ran.status == status
    assert [f["level"] for f in ran.json()["findings"] if "AccessDenied" in f["what"]] == [level]


def test_doctor_writes_nothing_into_the_audit_and_leaves_nothing_elsewhere(isnet, home, monkeypatch):
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
