"""Checkpoints whose digests are right and whose content is not: each is refused in a sentence."""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

import pytest
import torch
from tiny_task import TinyConfig, TinyTask

from trainplane.config.canonical import canonical_json
from trainplane.config.load import build
from trainplane.errors import RunFailed, UserError
from trainplane.storage import Store, open_store
from trainplane.train.checkpoint import store as checkpoints
from trainplane.train.checkpoint.async_writer import CheckpointWriter
from trainplane.train.checkpoint.content import parse_state, parse_tensors
from trainplane.train.checkpoint.retention import RetentionRules
from trainplane.train.checkpoint.state import TrainingState, capture, check_architecture, restore

TINY = build(TinyConfig, {"name": "tiny", "data": {"train": "t"}, "train": {"steps": 1, "global_batch": 4}})
STATE = TrainingState(7, {"module/g/w": torch.ones(2, 3)}, {"counters": {}, "param_groups": {}})


def packed(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def forge(store: Store, name: str, data: bytes) -> None:
    """Replaces a file of step 7, and makes all digests right again."""
    store.write(f"step-00000007/{name}", data)
    manifest = json.loads(store.read("step-00000007/manifest.json"))
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    sign(store, manifest)


def sign(store: Store, manifest: dict[str, Any]) -> None:
    manifest.pop("manifest_digest")
    manifest["manifest_digest"] = hashlib.sha256(canonical_json(manifest)).hexdigest()
    store.write("step-00000007/manifest.json", canonical_json(manifest))


@pytest.fixture
def store(tmp_path) -> Store:
    store = open_store(str(tmp_path))
    checkpoints.write(store, STATE, meta={"config": {}})
    return store


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no tensors at all",
        struct.pack("<Q", 1 << 62) + b"{}",
        packed(b"["),
        packed(b"[" * 100_000),
        packed([1, 2]),
        packed({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, bytes(8)),
        packed({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}}, bytes(8)),
        packed({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
        packed({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}, bytes(8)),
    ],
)
def test_tensors_that_are_none_are_refused(store, data):
    with pytest.raises(ValueError, match=r"\w"):
        parse_tensors(data)
    forge(store, "tensors.safetensors", data)
    with pytest.raises(RunFailed, match=r"tensors.safetensors is not what training writes"):
        checkpoints.read(store, checkpoints.committed(store)[0])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[1, 2]",
        b"7",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b"\xff",
        b'{"step": 7, "scalars": {}}',
        b'{"step": 7, "meta": {}}',
        b'{"step": "7", "scalars": {}, "meta": {}}',
        b'{"step": true, "scalars": {}, "meta": {}}',
        b'{"step": 7, "scalars": ["x"], "meta": {}}',
        b'{"step": 7, "scalars": {}, "meta": []}',
    ],
)
def test_a_state_that_is_none_is_refused(store, data):
    with pytest.raises(ValueError, match=r"\w"):
        parse_state(data)
    forge(store, "state.json", data)
    checkpoint = checkpoints.committed(store)[0]
    for reading in (checkpoints.read, checkpoints.read_meta):
        with pytest.raises(RunFailed, match=r"state.json is not what training writes"):
            reading(store, checkpoint)


def test_the_state_of_another_step_is_refused(store):
    forge(store, "state.json", b'{"meta":{},"scalars":{},"step":8}')
    with pytest.raises(RunFailed, match="is damaged"):
        checkpoints.read(store, checkpoints.committed(store)[0])


@pytest.mark.parametrize(
    "files",
    [
        {"../../secret": {"bytes": 1, "sha256": "0" * 64}},
        {"/etc/hostname": {"bytes": 1, "sha256": "0" * 64}},
        {"state.json": {"bytes": "x", "sha256": "0" * 64}},
        {"state.json": {"bytes": -1, "sha256": "0" * 64}},
        {"state.json": {"bytes": True, "sha256": "0" * 64}},
        {"state.json": {"bytes": 1, "sha256": 5}},
        {"state.json": 5},
    ],
)
def test_a_manifest_of_odd_files_is_none(store, files):
    manifest = json.loads(store.read("step-00000007/manifest.json"))
    manifest["files"] |= files
    sign(store, manifest)
    assert checkpoints.committed(store) == []
    with pytest.raises(RunFailed, match=r"manifest\.json is damaged"):
        checkpoints.newest_good(store)


@pytest.mark.parametrize("manifest", [b"[" * 100_000, b"[]", b"7", b"\xff"])
def test_a_manifest_that_is_none_is_damage(store, manifest):
    store.write("step-00000007/manifest.json", manifest)
    assert checkpoints.committed(store) == []


def test_a_file_that_has_grown_is_not_read_to_its_end(store, monkeypatch):
    store.write("step-00000007/unsent.spool", bytes(10_000))
    lengths = []
    read = type(store).read

    def noting(self, key, *, start=0, length=None):
        lengths.append(length)
        return read(self, key, start=start, length=length)

    monkeypatch.setattr(type(store), "read", noting)
    with pytest.raises(RunFailed, match=r"unsent.spool is damaged"):
        checkpoints.read(store, checkpoints.committed(store)[0])
    assert 1 in lengths


def tiny() -> TinyTask:
    return TinyTask(TINY, torch.device("cpu"))


@pytest.mark.parametrize(
    "scalars",
    [
        {},
        {"counters": {}},
        {"counters": {}, "param_groups": []},
        {"counters": {}, "param_groups": {"adam": "x", "sgd": "x"}},
        {"counters": {}, "param_groups": {"adam": [{}, {}, {}], "sgd": [{}]}},
        {"counters": [1], "param_groups": 5},
    ],
)
def test_numbers_of_another_training_are_refused(scalars):
    state = capture(tiny(), step=3)
    with pytest.raises(UserError, match="holds no state of this kind of training"):
        restore(tiny(), TrainingState(3, state.tensors, scalars), source="x")


def test_tensors_of_another_type_are_refused():
    state = capture(tiny(), step=3)
    name = next(name for name in state.tensors if name.startswith("module/"))
    odd = {**state.tensors, name: state.tensors[name].to(torch.int32)}
    with pytest.raises(UserError, match=r"1 of another shape or type .*int32"):
        restore(tiny(), TrainingState(3, odd, state.scalars), source="x")


def test_an_architecture_is_compared_without_memory_for_it():
    state = capture(tiny(), step=3)
    with torch.device("meta"):
        task = TinyTask(TINY, torch.device("meta"))
    check_architecture(task, state, source="x")
    with pytest.raises(UserError, match="another architecture"):
        check_architecture(task, TrainingState(3, {}, {}), source="x")


def test_an_attempt_clears_what_killed_ones_left_half_written(tmp_path):
    store = open_store(str(tmp_path))
    killed = CheckpointWriter(store, RetentionRules(last=2))
    killed.start()
    killed.save(STATE, meta={})
    killed.finish()
    with store.open_writer("step-00000008/tensors.safetensors") as file:
        file.write(b"half")
        left = next(tmp_path.glob("step-00000008/.part*"))
        left.rename(left.with_name(left.name + "x"))
        left.touch()
    left.with_name(left.name + "x").rename(left)
    assert list(tmp_path.rglob(".part*"))
    CheckpointWriter(store, RetentionRules(last=2)).start()
    assert not list(tmp_path.rglob(".part*"))
    assert checkpoints.newest_good(store).checkpoint.step == 7
