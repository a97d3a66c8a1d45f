"""Training on the holes of a packed dataset: drawn evenly, paired with held-out pictures, part of what a run is."""

import json
import multiprocessing
import pickle

import numpy as np
import pytest
from PIL import Image
from small_run import SMALL

from jobs.config import load_run_config
from jobs.data.mask_datasets import hole_generator, locate_masks, pin_mask_sets, with_located_masks
from jobs.data.samples import TrainTransform, fixed_hole
from trainplane.cluster.context import resolve
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError

SHARES = (0.125, 0.25, 0.5)


@pytest.fixture
def masks(isnet, tmp_path):
    """A packed dataset `holes` of three masks whose upper part is hole; its address."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for share in SHARES:
        pixels = np.zeros((64, 64), np.uint8)
        pixels[: int(64 * share)] = 255
        Image.fromarray(pixels).save(folder / f"{share}.png")
    packed = isnet("data", "pack", folder, "holes", "--kind", "masks", "--json")
    assert packed.status == 0, packed.err
    return resolve().dataset("holes")


def test_every_mask_is_drawn_at_the_size_asked_for_and_a_copy_draws_the_same(masks):
    draw = hole_generator(masks)
    drawn = [draw(32, 48, np.random.default_rng(seed)) for seed in range(40)]
    assert all(hole.shape == (32, 48) and hole.dtype == bool for hole in drawn)
    assert {float(hole.mean()) for hole in drawn} == set(SHARES)
    again = pickle.loads(pickle.dumps(draw))
    assert all(np.array_equal(again(32, 48, np.random.default_rng(seed)), hole) for seed, hole in enumerate(drawn))


def test_held_out_pictures_are_paired_with_masks_one_to_one_and_round_again(masks):
    paired = [float(fixed_hole(masks, 64, index).mean()) for index in range(6)]
    assert paired[:3] == paired[3:] == sorted(SHARES)


def test_a_run_trains_on_them_and_records_which_they_were(isnet, photos, masks):
    for name in ("mine", "held"):
        assert isnet("data", "pack", photos, name).status == 0
    trained = isnet("train", "demo", *SMALL, "data.masks=holes", "--json")
    assert trained.status == 0, trained.err
    shown = isnet("runs", "show", trained.json()["run_id"], "--json").json()
    assert masks in json.dumps(shown)
    assert Dataset.open(masks).digest in json.dumps(shown)


def test_what_is_no_set_of_masks_is_refused_before_anything_starts(isnet, photos):
    for name in ("mine", "held"):
        assert isnet("data", "pack", photos, name).status == 0
    misspelt = isnet("train", "demo", *SMALL, "data.masks=irregula")
    assert misspelt.status == 2
    assert "did you mean 'irregular'" in misspelt.err
    with pytest.raises(UserError, match="holds pictures, not masks"):
        locate_masks("mine", resolve())


def test_masks_are_no_pictures_to_train_on(isnet, photos, masks):
    isnet("data", "pack", photos, "mine")
    for words in (["data.train=holes", "data.val=mine"], ["data.train=mine", "data.val=holes"]):
        refused = isnet("train", "demo", *SMALL, *words)
        assert (refused.status, "holds masks, not pictures" in refused.err) == (2, True)


def test_masks_replaced_under_a_run_are_refused(isnet, tmp_path, masks):
    config = with_located_masks(load_run_config("demo", ["data.masks=holes", "data.train=a", "data.val=b"]), resolve())
    pin_mask_sets(config)
    assert float(hole_generator(masks).hole(0, 64, 64).mean()) in SHARES
    (tmp_path / "masks" / f"{SHARES[0]}.png").unlink()
    isnet("data", "pack", tmp_path / "masks", "holes", "--kind", "masks", "--replace")
    with pytest.raises(UserError, match="another dataset stands there by now"):
        pickle.loads(pickle.dumps(hole_generator(masks))).hole(0, 64, 64)


def _drawn_elsewhere(transform, results):
    drawn = hole_generator(transform.masks)
    results.put([float(drawn.hole(index, 64, 64).mean()) for index in range(3)])


def test_decoding_processes_look_at_the_memory_of_the_one_that_started_them(masks):
    transform = TrainTransform(64, None, True, masks)
    assert float(hole_generator(masks).hole(0, 64, 64).mean()) in SHARES
    # From here on the set cannot be read any more, only its memory can be shared.
    dataset = Dataset.open(masks)
    for shard in dataset.shards:
        dataset.store.delete(shard.name)
    context = multiprocessing.get_context("forkserver")
    results = context.Queue()
    process = context.Process(target=_drawn_elsewhere, args=(transform, results))
    process.start()
    try:
        assert results.get(timeout=120) == sorted(SHARES)
    finally:
        process.join(30)
    with pytest.raises(RunFailed):
        pickle.loads(pickle.dumps(hole_generator(masks))).hole(0, 64, 64)
