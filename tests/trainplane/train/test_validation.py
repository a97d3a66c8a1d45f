"""Several held-out sets: each is measured, and any of their metrics can decide."""

import noise_datasets
import pytest
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.train.loop import run
from trainplane.train.spec import TrainJob


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return noise_datasets.make(tmp_path_factory.mktemp("datasets"))


def config(data=(), **train):
    values = {"steps": 4, "global_batch": 4, "checkpoint_every": 2, "validate_every": 2, **train}
    return build(TinyConfig, {"name": "tiny", "data": {"train": "t", "val": "v", **dict(data)}, "train": values})


def test_a_further_set_has_metrics_of_its_name_that_can_choose_checkpoints(datasets, tmp_path):
    other = Dataset.open(str(datasets / "train"))
    settings = config(best_metric="val/seen/error", best_mode="min", keep_best=1)
    job = TrainJob(
        settings.model_dump(mode="json"),
        str(datasets / "train"),
        str(datasets / "val"),
        str(tmp_path),
        val_sets={"seen": (other.address, other.digest)},
    )
    outcome = run(job)
    assert set(outcome.metrics) == {"val/error", "val/seen/error"}
    assert outcome.metrics["val/error"] != outcome.metrics["val/seen/error"]
    alone = run(
        TrainJob(
            settings.model_dump(mode="json") | {},
            str(datasets / "train"),
            str(datasets / "train"),
            str(tmp_path / "b"),
            val_sets=job.val_sets,
        )
    )
    # The same samples measure the same, whichever set they are.
    assert alone.metrics["val/error"] == alone.metrics["val/seen/error"]


def test_a_metric_of_no_set_is_refused_before_the_first_step(datasets, tmp_path):
    settings = config(best_metric="val/other/error", patience=2)
    job = TrainJob(settings.model_dump(mode="json"), str(datasets / "train"), str(datasets / "val"), str(tmp_path))
    with pytest.raises(UserError, match=r"train\.best_metric='val/other/error' is not measured"):
        run(job)
    assert not list(tmp_path.glob("step-*"))


def test_further_sets_need_a_first_one_and_plain_names():
    with pytest.raises(UserError, match=r"data\.val, the first one, is not set; set data\.val=b"):
        config(data={"val": None, "val_sets": {"faces": "b"}})
    with pytest.raises(UserError, match=r"data\.val_sets has the name 'a/b', which is part of metrics' names"):
        config(data={"val_sets": {"a/b": "b"}})


def test_further_sets_are_no_part_of_the_identity():
    assert config(data={"val_sets": {"faces": "b"}}).identity() == config().identity()
