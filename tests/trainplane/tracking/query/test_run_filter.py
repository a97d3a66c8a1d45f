"""Conditions on runs: what they select, what they order, and what is said of a name that nobody has."""

import pytest

from trainplane.errors import UserError
from trainplane.tracking.query.run_filter import RunFilter, complete_name

NAMES = ["val/psnr", "val/psnr_10-20", "train.lr_g", "train.lr_d", "model.blocks", "model.name", "status", "a"]
RUN = {
    "val/psnr": 25.0,
    "val/psnr_10-20": 30.5,
    "model.blocks": 4,
    "model.name": "isnet",
    "status": "FINISHED",
    "train.lr_g": 2e-4,
    "train.lr_d": 1e-4,
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("val/psnr > 24 and model.blocks = 4", True),
        ("val/psnr > 24 AND blocks == 5", False),
        ("blocks in (4, 6) and not status = FAILED", True),
        ("status = FINISHED", True),
        ("model.name != 'isnet'", False),
        ("name = isnet", True),
        ("val/psnr_10-20 - val/psnr > 5", True),
        ("lr_d <= 0.5 * lr_g", True),
        ("train.lr_g >= 1e-3 or (val/psnr<26)", True),
        # Without a value nothing holds.
        ("a > 0", False),
        ("not a > 0", False),
        # Of kinds that cannot be compared, neither.
        ("status > 3", False),
    ],
)
def test_a_condition_selects_runs(text, holds):
    assert RunFilter.parse(text, names=NAMES).holds(RUN) is holds


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("val/psn > 24", "'val/psn'; did you mean 'val/psnr'"),
        ("blocs = 4", "did you mean 'blocks'"),
        ("lr > 1", "no run here has 'lr'"),
        # A metric is written in full, or it would hide a setting of that name.
        ("psnr > 1", "did you mean 'val/psnr'"),
        ("zzzzzz > 1", "`runs show RUN` has the names"),
        ("val/psnr >> 24", "is no condition; write one such as"),
        ("val/psnr", "is no condition"),
        ("val/psnr > 24; import os", "cannot be read; need names"),
        ("__import__('os').system('true') = 0", "cannot be read; need names"),
        ("(val/psnr > 1", "is no condition"),
    ],
)
def test_a_mistake_is_a_sentence(text, sentence):
    with pytest.raises(UserError) as refused:
        RunFilter.parse(text, names=NAMES)
    assert sentence in str(refused.value)


def test_the_end_of_a_name_may_fit_several():
    with pytest.raises(UserError, match=r"'lr' may be a\.lr or b\.lr; write it in full"):
        complete_name("lr", ["a.lr", "b.lr"])
