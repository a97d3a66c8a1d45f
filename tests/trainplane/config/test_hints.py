"""An unknown setting is answered with the one that was meant."""

import pytest
from tiny_task import TinyConfig

from trainplane.config.hints import hint
from trainplane.search.config import SearchFile


@pytest.mark.parametrize(
    ("name", "value", "answer"),
    [
        ("steps", "5", "; did you mean train.steps=5 or search.budget.steps=5?"),
        ("data.steps", "5", "; did you mean train.steps=5 or search.budget.steps=5?"),
        ("train.stpes", "5", "; did you mean train.steps=5?"),
        ("trian.stpes", "5", "; did you mean train.steps=5?"),
        ("stpes", "5", "; did you mean train.steps=5?"),
        ("TRAIN.Steps", "5", "; did you mean train.steps=5?"),
        ("train-steps", "5", "; did you mean train.steps=5?"),
        ("train_steps", "5", "; did you mean train.steps=5?"),
        ("train.batch-size", "5", "; did you mean train.global_batch=5?"),
        ("num_workers", "5", "; did you mean data.loader_workers=5?"),
        ("train.device", "cuda", "; did you mean train.use_gpu=… (true, false or auto)?"),
        ("epochs", "3", "; did you mean train.steps=… (whole number ≥ 1)?"),
        ("budget.steps", "5", "; did you mean search.budget.steps=5?"),
        ("space", "5", "; did you mean search.space=5?"),
        ("dataset", None, "; did you mean data.train?"),
        ("tracking.zzz", "5", "; known: tracking.experiment, tracking.require, tracking.gallery, tracking.register_as"),
        ("train.zzz", "5", "; `isnet config show PRESET` lists the settings"),
        ("zzz.zzz", "5", "; `isnet config show PRESET` lists the settings"),
    ],
)
def test_the_setting_that_was_meant_is_found(name, value, answer):
    assert hint([TinyConfig, SearchFile], name, value) == answer
