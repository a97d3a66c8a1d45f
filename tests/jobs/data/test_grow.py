"""Datasets of photos grow: nothing is copied, nothing comes twice, and no photo changes its side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from project_fixtures import Ran

from jobs.data.split import parse_shares, side_of
from trainplane.data.grow.contents import Contents
from trainplane.data.manifest import Dataset
from trainplane.data.read.fetch import read_samples
from trainplane.data.verify import verify

SHARES = "train=80,val=20"


def photos(folder: Path, numbers: range, *, prefix: str = "p") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        pixels = np.random.default_rng(number).integers(0, 256, (56, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{prefix}{number:04d}.png")
    return folder


def grow(isnet: Callable[..., Ran], *words: str) -> dict[str, Any]:
    """Run `isnet data WORDS`; what it printed."""
    answer = isnet("data", *words, "--json")
    assert answer.status == 0, answer.err
    return dict(answer.json())


def test_one_percent_more_copies_at_most_two_percent(home: Path, tmp_path: Path, isnet) -> None:
    photos(tmp_path / "a", range(200))
    old = grow(isnet, "pack", "a", "mine", "--shard-bytes", "400k")
    stored = {path: path.stat().st_mtime_ns for path in (home / "datasets").rglob("*") if path.is_file()}
    photos(tmp_path / "b", range(500, 502))
    new = grow(isnet, "add", "mine", "b")
    after = [path for path in (home / "datasets").rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in after if path not in stored)
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
    assert new["samples"] == 202
    assert new["bytes_shared"] == old["bytes"]
    assert written <= 0.02 * old["bytes"], (written, old["bytes"])
    # The manifest is the rest.
    assert new["bytes_copied"] <= written <= new["bytes_copied"] + 4000


def test_a_photo_never_changes_its_side_whatever_is_added(home: Path, tmp_path: Path, isnet) -> None:
    val = side_of(parse_shares(SHARES), "val")
    photos(tmp_path / "step0", range(40))
    sides: dict[str, set[bytes]] = {}
    for name in ("train", "val"):
        grow(isnet, "pack", "step0", f"mine-{name}", "--shares", SHARES, "--split", name)
    for step in (1, 2):
        # Old photos come again under other names, with new ones.
        folder = photos(tmp_path / f"step{step}", range(40 * step, 40 * step + 30))
        photos(folder, range(0, 40, 3), prefix="again-")
        for name in ("train", "val"):
            grow(isnet, "add", f"mine-{name}", folder.name)
            dataset = Dataset.open(f"{home}/datasets/mine-{name}/versions/{step + 1:06d}")
            assert verify(dataset) == []
            now = [sample["png"] for sample in read_samples(dataset, range(dataset.num_samples))]
            assert len(set(now)) == len(now)
            assert all(val.contains(data) == (name == "val") for data in now)
            assert sides.get(name, set()) < set(now)
            sides[name] = set(now)
    assert not sides["train"] & sides["val"]
    assert len(sides["train"] | sides["val"]) == 100


def test_without_shares_the_held_out_set_keeps_its_photos_for_ever(home: Path, tmp_path: Path, isnet) -> None:
    photos(tmp_path / "a", range(10))
    photos(tmp_path / "v", range(10, 14))
    grow(isnet, "pack", "a", "mine", "--split", "train")
    grow(isnet, "pack", "v", "held", "--split", "val")
    photos(tmp_path / "b", range(9, 20), prefix="b")
    refused = isnet("data", "add", "mine", "b")
    assert refused.status == 2
    assert "name the dataset that has them: `isnet data add mine SRC --apart-from OTHER`" in refused.err
    # A photo that was removed from the held-out side was held out once.
    (tmp_path / "gone.txt").write_text("p0010.png\n")
    grow(isnet, "remove", "held", "--keys", "gone.txt")
    new = grow(isnet, "add", "mine", "b", "--apart-from", "held")
    assert new["samples"] == 16
    assert new["reasons"] == {"duplicate": 1, "kept apart": 4}
    # The manifest remembers whom to keep apart from.
    photos(tmp_path / "c", range(12, 15), prefix="c")
    photos(tmp_path / "c", range(30, 31), prefix="c")
    newer = grow(isnet, "add", "mine", "c")
    assert (newer["samples"], newer["reasons"]) == (17, {"kept apart": 2, "duplicate": 1})


def test_other_photos_of_the_same_name_are_kept_and_the_same_ones_are_named(home: Path, tmp_path: Path, isnet) -> None:
    photos(tmp_path / "a", range(6))
    grow(isnet, "pack", "a", "mine")
    photos(tmp_path / "b", range(20, 22))
    (tmp_path / "b" / "p0020.png").rename(tmp_path / "b" / "p0003.png")
    (tmp_path / "b" / "copy.png").write_bytes((tmp_path / "b" / "p0021.png").read_bytes())
    (tmp_path / "b" / "torn.png").write_bytes((tmp_path / "b" / "p0021.png").read_bytes()[:200])
    new = grow(isnet, "add", "mine", "b")
    assert new["samples"] == 8
    assert {entry["file"]: entry["reason"].partition(":")[0] for entry in new["skipped"]} == {
        "p0021.png": "duplicate",
        "torn.png": "truncated",
    }
    # Once more: nothing is stored, and it is no error.
    again = grow(isnet, "add", "mine", "b")
    assert (again["digest"], again["bytes_copied"]) == (new["digest"], 0)


def test_removed_photos_are_gone_and_with_rewrite_their_bytes_too(home: Path, tmp_path: Path, isnet) -> None:
    photos(tmp_path / "a", range(12))
    grow(isnet, "pack", "a", "mine", "--shard-bytes", "50k")
    secret = (tmp_path / "a" / "p0004.png").read_bytes()
    (tmp_path / "gone.txt").write_text("p0004.png\n")
    for option in ([], ["--rewrite"]):
        new = grow(isnet, "remove", "mine@1", "--keys", "gone.txt", *option)
        dataset = Dataset.open(new["dataset"])
        assert new["samples"] == 11
        assert verify(dataset) == []
        assert Contents(dataset).find(secret) is None
        tars = [dataset.shard_place(shard) for shard in dataset.shards]
        assert any(secret in store.read(key) for store, key in tars) == (not option)
    part = grow(isnet, "subset", "mine@1", "part", "--fraction", "0.5")
    assert 0 < part["samples"] < 12
    assert part["bytes_copied"] < 4000


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("add", "mine", "empty"), "nothing to add to mine: no sample was found; give a source with photos"),
        (("add", "mien", "a"), "did you mean 'mine'?"),
        (("add", "mine@4", "a"), "there is no version 4"),
        (("remove", "mine", "--keys", "wrong.txt"), "mine lacks 1 of the keys in the list: 'p0003.jpeg' (the nearest"),
        (("remove", "mine", "--keys", "all.txt"), "all 4 samples would go"),
        (("merge", "mine", "mine"), "are the same dataset"),
        (("merge", "mine", "masks"), "mine has kind photos and masks has masks"),
        (("merge", "mine", "sided"), "mine has split all and sided has train: a photo could change its side"),
        (("subset", "mine", "part"), "by --fraction 0.1 or by --keys FILE; give one of them"),
        (("subset", "mine", "part", "--fraction", "2"), "need more than 0 and at most 1"),
        (("pack", "b", "mine", "--replace"), "cannot be replaced"),
    ],
)  # fmt: skip
def test_a_mistake_gets_a_sentence_and_changes_nothing(
    home: Path, tmp_path: Path, isnet, words: tuple[str, ...], sentence: str
) -> None:
    photos(tmp_path / "a", range(4))
    photos(tmp_path / "b", range(4, 6))
    (tmp_path / "empty").mkdir()
    grow(isnet, "pack", "a", "mine")
    grow(isnet, "pack", "a", "sided", "--split", "train")
    grow(isnet, "pack", "a", "masks", "--kind", "masks")
    (tmp_path / "wrong.txt").write_text("p0003.jpeg\n")
    (tmp_path / "all.txt").write_text("".join(f"p{number:04d}.png\n" for number in range(4)))
    if "--replace" in words:
        grow(isnet, "add", "mine", "b")
    before = sorted(home.rglob("*"))
    answer = isnet("data", *words)
    assert (answer.status, sorted(home.rglob("*"))) == (2, before)
    assert sentence in answer.err


def test_a_side_that_no_photo_falls_on_is_told(home: Path, tmp_path: Path, isnet) -> None:
    photo = tmp_path / "one" / "a.png"
    photo.parent.mkdir()
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(photo)
    shares = parse_shares("train=50,val=50")
    [empty] = [name for name in shares if not side_of(shares, name).contains(photo.read_bytes())]
    found = isnet("data", "pack", photo.parent, "none", "--shares", "train=50,val=50", "--split", empty)
    assert found.status == 2
    assert f"none of 1 picture is on the side '{empty}' (no sample was found); take more pictures" in found.err
    assert not (home / "datasets" / "none" / "manifest.json").exists()
