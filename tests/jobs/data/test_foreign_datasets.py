"""Intact datasets with samples that the task cannot use: the sample or the mask is named, and nothing else."""

import io

import numpy as np
import pytest
from PIL import Image
from small_run import SMALL

from jobs.data.mask_datasets import MaskSet
from jobs.data.samples import TrainTransform, fixed_hole
from trainplane.cluster.context import resolve
from trainplane.data.damage import UNDECODABLE
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem, pack
from trainplane.errors import RunFailed, UserError


def png(seed, shape=(48, 48, 3)):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, np.uint8)).save(file, "PNG")
    return file.getvalue()


def stored(name, files, extension="png", kind="pictures"):
    """The full address of a dataset of these files, packed as they are."""
    items = [PackItem(f"{n:03d}.{extension}", data, extension, {}) for n, data in enumerate(files)]
    address = resolve().dataset(name)
    return pack(items, address, name=name, split="train", how={"kind": kind}).address


@pytest.fixture
def intact(home):
    return stored("intact", [png(seed) for seed in range(8)])


def transform(masks="box"):
    return TrainTransform(size=32, resize=None, flip=True, masks=masks)


@pytest.mark.parametrize("policy", ["fail", "quarantine"])
def test_a_sample_without_a_picture_is_damage_like_any_other(home, policy):

    files = [PackItem(f"{n:03d}.x", png(n), "jpeg" if n == 2 else "png", {}) for n in range(8)]
    dataset = pack(files, str(home / "mixed"), name="mixed", split="train", how={})
    options = {"transform": transform(), "seed": 1, "global_batch": 2, "on_damage": policy, "damage_budget": 1}
    with Loader(Dataset.open(dataset.address), **options) as loader:
        if policy == "fail":
            with pytest.raises(RunFailed, match=r"undecodable \(no picture among its members \(jpeg, json\); need"):
                list(loader.batches(start=0, stop=4))
        else:
            assert len(list(loader.batches(start=0, stop=4))) == 4
            assert [(one.kind, one.key) for one in loader.damage] == [(UNDECODABLE, dataset.index.key_of(2))]


@pytest.mark.parametrize("policy", ["fail", "quarantine"])
def test_a_broken_mask_is_not_blamed_on_the_picture(intact, policy):

    masks = stored("torn", [b"junk"], kind="masks")
    options = {"transform": transform(masks), "seed": 1, "global_batch": 2, "on_damage": policy}
    with (
        Loader(Dataset.open(intact), **options) as loader,
        pytest.raises(RunFailed, match=r"mask 0 of .*torn cannot be read: not a picture"),
    ):
        list(loader.batches(start=0, stop=4))


def test_masks_of_another_format_are_refused_by_name(intact):
    masks = stored("jpegs", [png(1)], extension="jpg", kind="masks")
    with pytest.raises(UserError, match=r"masks .*jpegs: sample \S+ has no KEY.png \(jpg, json\)"):
        MaskSet(masks).hole(0, 8, 8)
    with pytest.raises(UserError, match=r"has no KEY\.png"):
        fixed_hole(masks, 8, 0)


@pytest.mark.parametrize(
    ("files", "extension", "reason"),
    [([png(0), b"junk", png(2)], "png", "not a picture"), ([png(0)], "jpeg", "no picture among its members")],
)
def test_evaluation_names_the_picture_that_it_cannot_read(isnet, home, files, extension, reason):
    address = stored("held", files, extension)
    ran = isnet("evaluate", "classical:mean", "held", "--size", "32")
    assert ran.status == 1
    assert f"dataset {address} is damaged: shard-000000.tar, sample " in ran.err
    assert reason in ran.err


def test_evaluation_names_the_mask_that_it_cannot_read(isnet, intact):
    masks = stored("torn", [b"junk"], kind="masks")
    ran = isnet("evaluate", "classical:mean", "intact", "--size", "32", "--masks", "torn")
    assert ran.status == 1
    assert f"dataset {masks} is damaged" in ran.err


def test_a_held_out_picture_that_cannot_be_read_ends_the_run_by_its_name(isnet, intact):
    stored("held", [png(0), b"junk"])
    ran = isnet("train", "demo", *SMALL, "data.train=intact", "data.val=held")
    assert ran.status == 1
    assert "held-out picture" in ran.err
    assert "(number 1) cannot be read: not a picture" in ran.err
