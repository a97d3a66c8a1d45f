"""A checkpoint exists when its manifest does; storing one never stops training."""

import itertools
import json
import threading

import pytest
import torch

from trainplane.config.canonical import canonical_json
from trainplane.errors import RunFailed, UserError
from trainplane.storage import StorageError, open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.async_writer import CheckpointWriter
from trainplane.train.checkpoint.retention import RetentionRules
from trainplane.train.checkpoint.state import TrainingState


def state(step=3, value=1.0):
    return TrainingState(step, {"module/g/w": torch.full((2, 3), value)}, {"counters": {}, "param_groups": {}})


def test_what_was_written_is_read_back(tmp_path):
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(), meta={"dataset_digest": "d"}, unsent=b"records")
    loaded = checkpoints.newest_good(store)
    assert loaded.state.digest() == state().digest()
    assert loaded.meta == {"dataset_digest": "d"}
    assert loaded.unsent == b"records"


def test_digest_sees_every_tensor_name_shape_and_scalar():
    base = state()
    others = [
        state(step=4),
        state(value=2.0),
        TrainingState(3, {"module/g/v": torch.ones(2, 3)}, base.scalars),
        TrainingState(3, {"module/g/w": torch.ones(3, 2)}, base.scalars),
        TrainingState(3, base.tensors, {"counters": {"n": 1}, "param_groups": {}}),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 6


def test_without_its_manifest_it_does_not_exist(tmp_path):
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(3), meta={})
    checkpoints.write(store, state(6), meta={})
    store.delete("step-00000006/manifest.json")
    assert [c.step for c in checkpoints.committed(store)] == [3]


class Interrupted(BaseException):
    """Stands for a kill between two writes."""


@pytest.mark.parametrize("survives", range(4))
def test_a_kill_between_two_writes_leaves_no_half_checkpoint(tmp_path, survives, monkeypatch):
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(3), meta={})
    writes = itertools.count()
    whole = type(store).write

    def write(self, key, data):
        if next(writes) == survives:
            raise Interrupted
        whole(self, key, data)

    monkeypatch.setattr(type(store), "write", write)
    with pytest.raises(Interrupted):
        checkpoints.write(store, state(6), meta={})
    assert checkpoints.newest_good(store).checkpoint.step == 3


def test_writing_a_step_again_never_leaves_an_old_manifest_over_new_files(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(3, 1.0), meta={})
    whole = type(store).write

    def write(self, key, data):
        whole(self, key, data)
        if key.endswith("tensors.safetensors"):
            raise Interrupted

    monkeypatch.setattr(type(store), "write", write)
    with pytest.raises(Interrupted):
        checkpoints.write(store, state(3, 2.0), meta={})
    assert checkpoints.committed(store) == []


def test_failed_uploads_are_counted_and_fatal_only_when_the_budget_is_spent(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    writer = CheckpointWriter(store, RetentionRules(last=2), failures_allowed=2)

    def refuse(self, key, data):
        raise StorageError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "write", refuse)
        for step in (1, 2, 3):
            writer.save(state(step), meta={})
        with pytest.raises(RunFailed, match="3 checkpoints in a row could not be stored"):
            writer.save(state(4), meta={})
    assert writer.failed == 3


def test_one_good_upload_clears_the_count(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    writer = CheckpointWriter(store, RetentionRules(last=2), failures_allowed=0)
    writer.save(state(1), meta={})
    assert writer.finish().step == 1
    monkeypatch.setattr(type(store), "write", lambda self, key, data: (_ for _ in ()).throw(StorageError("away")))
    writer.save(state(2), meta={})
    with pytest.raises(RunFailed, match="last checkpoint could not be stored"):
        writer.finish()
    assert [c.step for c in checkpoints.committed(store)] == [1]


def test_saving_does_not_wait_for_the_store(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))
    writer = CheckpointWriter(store, RetentionRules(last=2))
    gate = threading.Event()
    whole = type(store).write

    def slow(self, key, data):
        assert gate.wait(30)
        whole(self, key, data)

    monkeypatch.setattr(type(store), "write", slow)
    writer.save(state(1), meta={})
    assert checkpoints.committed(store) == []
    gate.set()
    assert writer.finish().step == 1


def test_address_of_nothing_is_answered_in_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no checkpoint there"):
        checkpoints.open_address(str(tmp_path / "nowhere"))


def test_a_manifest_that_is_not_what_we_write_is_none(tmp_path):
    """Torn, of another program, or copied under another step's name: passed over, never an error."""
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(3), meta={})
    sound = json.loads(store.read("step-00000003/manifest.json"))
    # Its digest would be reason enough for all of them.
    del sound["manifest_digest"]
    strange = [
        [],
        7,
        None,
        {},
        {"format_version": 1},
        {**sound, "step": "6"},
        {**sound, "files": None},
        {**sound, "step": 6, "files": {}},
        {**sound, "step": 6, "files": dict.fromkeys(sound["files"], 1)},
        {**sound, "step": 6, "format_version": 99},
        # A folder that somebody copied.
        sound,
    ]
    for manifest in strange:
        store.write("step-00000006/manifest.json", json.dumps(manifest).encode())
        assert [c.step for c in checkpoints.committed(store)] == [3], manifest
        assert checkpoints.newest_good(store).checkpoint.step == 3


def test_a_store_that_does_not_answer_is_not_taken_for_a_damaged_checkpoint(tmp_path, monkeypatch):
    """Or the run would begin anew, and take away as damaged what only could not be reached."""
    store = open_store(str(tmp_path))
    checkpoints.write(store, state(3), meta={})
    checkpoints.write(store, state(6), meta={})
    whole = type(store).read

    def read(self, key, **kwargs):
        if key == "step-00000006/tensors.safetensors":
            raise StorageError("away")
        return whole(self, key, **kwargs)

    monkeypatch.setattr(type(store), "read", read)
    with pytest.raises(StorageError):
        checkpoints.newest_good(store)


@pytest.mark.parametrize(("name", "content"), [("state.json", b"{}"), ("manifest.json", b'{"format_ver')])
def test_what_was_passed_over_is_said(tmp_path, name, content):
    store = open_store(str(tmp_path))
    for step in (3, 6):
        checkpoints.write(store, state(step), meta={})
    store.write(f"step-00000006/{name}", content)
    found = checkpoints.newest_good(store)
    assert found.checkpoint.step == 3
    (reason,) = found.damaged
    assert f"step-00000006: {name} is damaged" in reason


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew_in_silence(tmp_path, name):
    store = open_store(str(tmp_path))
    for step in (3, 6):
        checkpoints.write(store, state(step), meta={})
        store.write(f"step-{step:08d}/{name}", b"torn")
    with pytest.raises(RunFailed, match=rf"step-00000006: {name} is damaged.*none of the run's 2.*--fresh"):
        checkpoints.newest_good(store)


def as_before_digests(store, folder, **changed):
    """Make a manifest what it was before it bore a digest of itself."""
    manifest = json.loads(store.read(f"{folder}/manifest.json"))
    manifest.pop("manifest_digest", None)
    store.write(f"{folder}/manifest.json", canonical_json({**manifest, **changed}))


META = {"dataset_digest": "3569", "order_hash": "ab", "config_digest": "c"}


def test_no_flipped_bit_of_a_manifest_is_believed(tmp_path):
    store = open_store(str(tmp_path))
    for step in (3, 6):
        checkpoints.write(store, state(step), meta=META, metrics={"val/psnr": 20.5})
    sound = store.read("step-00000006/manifest.json")
    for bit in range(8 * len(sound)):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        (tmp_path / "step-00000006" / "manifest.json").write_bytes(flipped)
        assert [c.step for c in checkpoints.committed(store)] == [3], bytes(flipped)
    assert checkpoints.newest_good(store).checkpoint.step == 3


@pytest.mark.parametrize("name", ["dataset_digest", "order_hash", "config_digest", "state_digest"])
def test_an_older_manifest_is_read_and_believed_where_it_repeats_what_the_files_say(tmp_path, name):
    store = open_store(str(tmp_path))
    for step in (3, 6):
        checkpoints.write(store, state(step), meta=META)
        as_before_digests(store, f"step-{step:08d}")
    assert checkpoints.newest_good(store).checkpoint.step == 6
    as_before_digests(store, "step-00000006", **{name: "3469"})
    found = checkpoints.newest_good(store)
    assert found.checkpoint.step == 3
    assert "manifest.json is damaged" in found.damaged[0]
    if name != "state_digest":
        newest = checkpoints.committed(store)[-1]
        with pytest.raises(RunFailed, match=r"manifest\.json is damaged"):
            checkpoints.read_meta(store, newest)
