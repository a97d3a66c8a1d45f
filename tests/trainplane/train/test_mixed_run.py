"""A run on several training sets: killed and resumed it ends on the same bits, and each share is another run."""

import json
from types import SimpleNamespace

import noise_datasets
import pytest
import small_datasets
import torch
from tiny_task import TinyConfig

from trainplane.cluster.context import local
from trainplane.config.load import build
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import Mixture
from trainplane.data.training_data import addresses_of, open_training_data
from trainplane.errors import UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint.resume import check_resumable
from trainplane.train.guard.fault_dump import dump_batch
from trainplane.train.loop import run
from trainplane.train.run_key import run_key
from trainplane.train.spec import TrainJob
from trainplane.train.world import World


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = noise_datasets.make(tmp_path_factory.mktemp("datasets"))
    first, other = (Dataset.open(str(folder / name)) for name in ("train", "val"))
    return Mixture.of(first, {"val": (other, 0.25)}, global_batch=4)


def config(mix=None, grown_from=None, **train):
    values = {"global_batch": 4, "checkpoint_every": 3, "validate_every": 3, **train}
    data = {"train": "t", "mix": mix or {}, "grown_from": grown_from}
    return build(TinyConfig, {"name": "tiny", "data": data, "train": values})


def trained(data, folder, *, steps):
    address, digest, mix = addresses_of(data)
    settings = config({"val": 0.25}, steps=steps).model_dump(mode="json")
    return run(TrainJob(settings, address, None, str(folder), train_digest=digest, mix=mix))


def test_in_pieces_it_ends_on_the_same_bits_as_at_once(data, tmp_path):
    whole = trained(data, tmp_path / "whole", steps=13)
    for steps in (2, 7, 13):
        pieces = trained(data, tmp_path / "pieces", steps=steps)
    assert pieces.state_digest == whole.state_digest
    alone = trained(data.sets[0].dataset, tmp_path / "alone", steps=13)
    assert alone.state_digest != whole.state_digest
    store, settings = open_store(str(tmp_path / "whole")), config({"val": 0.25}, steps=20)
    assert check_resumable(store, settings, data) == 13
    with pytest.raises(UserError, match="give it the same data"):
        check_resumable(store, settings, data.sets[0].dataset)


def test_a_set_that_was_replaced_is_refused(data, tmp_path):
    address, digest, mix = addresses_of(data)
    job = TrainJob(config(steps=2).model_dump(mode="json"), address, None, str(tmp_path), train_digest=digest)
    with pytest.raises(UserError, match="another dataset stands there by now"):
        run(TrainJob(**{**vars(job), "mix": [(mix[0][0], "0" * 64, 1)]}))


def test_a_faulty_batch_names_its_samples_and_their_datasets(data, tmp_path):
    fault = SimpleNamespace(index=5, norms={}, loss_finite=False)
    loader = Loader(data, transform=sizes, seed=0, global_batch=4)
    message = dump_batch(open_store(str(tmp_path)), fault, loader=loader, data=data, world=World())
    about = json.loads((tmp_path / "faults" / "step-00000006" / "samples.json").read_text())
    assert about["dataset_digest"] == data.digest
    names = {each.dataset.digest: each.dataset.name for each in data.sets}
    for sample in about["samples"]:
        assert sample["key"].startswith(f"{names[sample['dataset_digest']]}_{sample['index']}-")
    assert [names[sample["dataset_digest"]] for sample in about["samples"]].count("val") == 1
    assert about["samples"][0]["key"] in message


def sizes(sample, rng):
    del rng
    return {"bytes": torch.tensor(len(sample["png"]))}


def test_a_share_is_no_setting_of_the_identity_but_of_the_datas_digest(data):
    assert config({"val": 0.25}, steps=1).identity() == config(steps=1).identity()
    assert run_key(config(steps=1), data.digest, None) != run_key(config(steps=1), data.sets[0].dataset.digest, None)


MISTAKES = {
    "a share between 0 and 1": {"mix": {"val": 2}},
    "gives away 1.2 of each batch": {"mix": {"a": 0.6, "b": 0.6}},
    "data.grown_from=train@1 goes on on one dataset": {"mix": {"val": 0.2}, "grown_from": "train@1"},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_a_sentence(message):
    with pytest.raises(UserError, match=message):
        config(**MISTAKES[message], steps=1)


def test_a_dataset_that_is_not_there_is_named(data, tmp_path):
    context = local(tmp_path)
    small_datasets.make(f"{context.datasets}/mine", 20)
    with pytest.raises(UserError, match="there is no dataset"):
        open_training_data("mine", {"minne": 0.5}, context, global_batch=4)
