"""Samples are found by their bytes, whatever they are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from small_datasets import items, make

from trainplane.data.grow.contents import Contents
from trainplane.data.grow.merge import Apart, joining
from trainplane.data.grow.samples import stored_again
from trainplane.data.pack.pack import pack
from trainplane.data.pack.shard_builder import PackItem


def test_each_sample_is_found_by_its_content_and_nothing_else_is(tmp_path: Path) -> None:
    contents = Contents(make(tmp_path / "mine", 100))
    for number, item in enumerate(items(100)):
        assert contents.find(item.data) == number
        assert contents.find(item.data[:-1]) is None
        assert contents.find(item.data[:-1] + bytes([item.data[-1] ^ 1])) is None
    # Equal length and checksum do not make two samples equal: the bytes decide.
    contents.codes[:] = contents.codes[0]
    contents._sorted[:] = contents.codes[0]
    assert contents.find(items(100)[0].data) == 0


def test_a_merge_shares_what_is_new_renames_clashing_keys_and_names_the_rest(tmp_path: Path) -> None:
    base = Contents(make(tmp_path / "base", 20))
    held = [PackItem("held.png", b"held out", "png", {"n": 1})]
    apart = Contents(pack(held, str(tmp_path / "val"), name="val", split="val", how={}))
    theirs = [
        PackItem("copy of 3.png", items(20)[3].data, "png", {}),
        PackItem("00005.png", b"another picture of that name", "png", {"n": 2}),
        PackItem("mine.png", b"held out", "png", {}),
        PackItem("new.png", b"new", "png", {}),
    ]
    other = Contents(pack(theirs, str(tmp_path / "other"), name="other", split="train", how={}))
    join = joining(base, other, [Apart("val", apart)])
    assert list(np.flatnonzero(join.shared)) == [3]
    assert [file.reason.split(":")[0] for file in join.skipped] == ["duplicate", "kept apart"]
    (item,) = stored_again(other.dataset, join.renamed, prefix="other/")
    assert (item.source, item.data, dict(item.extra)) == ("other/00005.png", theirs[1].data, {"n": 2})
    # Without a prefix they keep their keys.
    again = list(stored_again(other.dataset, range(4)))
    assert [(one.source, one.data) for one in again] == [(one.source, one.data) for one in theirs]
