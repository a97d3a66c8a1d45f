"""A run goes on on a larger version of its dataset when it says so, and never in silence."""

import noise_datasets
import pytest
from tiny_task import TinyConfig

from trainplane.cluster.context import local
from trainplane.config.load import build
from trainplane.data.grow.derive import derive
from trainplane.data.grow.inheritance import whole
from trainplane.data.manifest import Dataset
from trainplane.data.pack.pack import PackItem
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint.resume import check_resumable
from trainplane.train.loop import run
from trainplane.train.run_key import RunDir, find_run_dir, register_run_dir, run_key
from trainplane.train.spec import TrainJob
from trainplane.train.start.grown import check_said, check_state_said, located_growth
from trainplane.train.start.prepare import prepare_start


def config(steps=6, **data):
    train = {"steps": steps, "global_batch": 4, "checkpoint_every": 3, "validate_every": 100, "log_every": 2}
    return build(TinyConfig, {"name": "tiny", "data": {"train": "train", **data}, "train": train})


def trained(settings, context, data):
    """Trains as `prepared_run` would, without a tracking server."""
    settings = located_growth(settings, context, data, None)
    key = run_key(settings, data.digest, None)
    place = find_run_dir(settings, key=key, checkpoints=context.checkpoints, fresh=False)
    start = prepare_start(settings, context, RunDir(key, place.folder, place.address), data)
    register_run_dir(place, settings)
    if start is not None:
        start.write()
    return place, run(TrainJob(settings.model_dump(mode="json"), data.address, None, place.address))


@pytest.fixture
def world(tmp_path):
    context = local(tmp_path)
    noise_datasets.make(tmp_path / "datasets")
    small = Dataset.open(context.dataset("train"))
    rng = noise_datasets.np.random.default_rng(9)
    new = [PackItem(f"new-{i}.png", noise_datasets.png(rng), "png", {}) for i in range(7)]
    large = derive([whole(small)], f"{small.address}/versions/000002", how="add", name="train", entries=new)
    return context, small, large


def test_it_goes_on_with_its_whole_state_and_stays_the_same_run_when_asked_again(world):
    context, small, large = world
    _, before = trained(config(steps=6), context, small)
    place, after = trained(config(steps=9, grown_from="train@1"), context, large)
    assert (before.step, after.step) == (6, 9)
    assert place.address != before.checkpoint.rpartition("/")[0]
    # The run on the small set goes on for itself, which changes nothing for the other one.
    trained(config(steps=12), context, small)
    again, longer = trained(config(steps=15, grown_from=small.digest[:12]), context, large)
    assert (again, longer.step) == (place, 15)
    # The same in one piece ends on the same bits.
    other = context.at(checkpoints=f"{context.home}/other")
    trained(config(steps=6), other, small)
    _, at_once = trained(config(steps=15, grown_from="train@1"), other, large)
    assert at_once.state_digest == longer.state_digest


def test_without_saying_so_it_is_refused_and_the_refusal_names_three_ways(world):
    context, small, large = world
    _, before = trained(config(steps=6), context, small)
    with pytest.raises(UserError) as refused:
        check_said(config(steps=9), context, large, None)
    for way in (f"data.grown_from={small.digest[:12]}", f"data.train=train@{small.digest[:12]}", "--fresh"):
        assert way in str(refused.value)
    check_said(config(steps=9), context, small, None)
    check_said(config(steps=9, grown_from="train@1"), context, large, None)
    with pytest.raises(UserError, match="goes on with its state on this one"):
        check_state_said(config(), large, before.checkpoint, small.digest)
    # The older refusal stands: a folder's checkpoint belongs to its dataset.
    with pytest.raises(UserError, match="was made with dataset_digest"):
        check_resumable(open_store(before.checkpoint.rpartition("/")[0]), config(steps=9), large)


def test_what_it_did_not_grow_out_of_is_refused_by_name(world):
    context, small, large = world
    with pytest.raises(UserError, match=rf"grew out of; name one of these: {small.digest[:12]}"):
        located_growth(config(grown_from="val"), context, large, None)
    with pytest.raises(UserError, match="it grew out of none"):
        located_growth(config(grown_from="val"), context, small, None)
    with pytest.raises(UserError, match="no run of these settings with a checkpoint trained on that version"):
        located_growth(config(grown_from="train@1"), context, large, None)


def test_the_growth_is_part_of_what_a_run_is(world):
    _, small, large = world
    plain, grown = config(), config(grown_from=small.digest)
    assert run_key(plain, large.digest, None) != run_key(grown, large.digest, None)
    assert "grown_from" not in plain.identity()["data"]
