"""An object is fetched once a host, however many processes ask for it."""

import multiprocessing
import os

import pytest

from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.storage.host_files import host_copy


@pytest.fixture
def stored(tmp_path):
    store = open_store(str(tmp_path / "store"))
    store.write("vgg.safetensors", b"0123456789" * 1000)
    store.write("vgg.safetensors.old", b"another one")
    return store, f"{store.address}/vgg.safetensors", str(tmp_path / "host")


def count_reads(store, monkeypatch, log):
    """Every read of the store leaves a line in a file that all processes share."""
    view = type(store).view

    def counted(self, key, **args):
        with log.open("a") as file:
            file.write(f"{key}\n")
        return view(self, key, **args)

    monkeypatch.setattr(type(store), "view", counted)


def test_several_processes_fetch_it_once(stored, tmp_path, monkeypatch):
    store, address, host = stored
    log = tmp_path / "reads"
    count_reads(store, monkeypatch, log)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=host_copy, args=(address,), kwargs={"parent": host}) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    path = host_copy(address, parent=host)
    assert path.read_bytes() == store.read("vgg.safetensors")
    assert path.suffix == ".safetensors"
    assert log.read_text() == "vgg.safetensors\n"


def test_a_replaced_object_is_another_file(stored):
    store, address, host = stored
    before = host_copy(address, parent=host)
    store.write("vgg.safetensors", b"new")
    os.utime(f"{store.address}/vgg.safetensors", (1, 1))
    after = host_copy(address, parent=host)
    assert after != before
    assert (before.read_bytes()[:10], after.read_bytes()) == (b"0123456789", b"new")


def test_what_a_killed_process_left_is_removed(stored):
    _, address, host = stored
    folder = host_copy(address, parent=host).parent
    (folder / "unfinished-0").write_bytes(b"half")
    for path in folder.glob("*.safetensors"):
        path.unlink()
    host_copy(address, parent=host)
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".safetensors"]


@pytest.mark.parametrize("name", ["other.safetensors", "vgg", ""])
def test_without_such_an_object_it_says_so(stored, name):
    store, _, host = stored
    with pytest.raises(UserError, match="no such object; give the address of a file"):
        host_copy(f"{store.address}/{name}", parent=host)


def test_a_folder_that_others_may_write_to_is_not_used(stored, tmp_path):
    _, address, host = stored
    folder = host_copy(address, parent=host).parent
    folder.chmod(0o777)
    with pytest.raises(UserError, match=r"cannot be copied to this host \(.* others may write to it\)"):
        host_copy(address, parent=host)
