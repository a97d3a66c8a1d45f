"""Conditions on settings are read by us, never run as Python."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.errors import UserError
from trainplane.search.constraints import Condition

KNOWN = ["train.lr_g", "train.lr_d", "loss.gan", "model.blocks", "a.x", "b.x"]
VALUES = {"train.lr_g": 1e-3, "train.lr_d": 1e-4, "loss.gan": "hinge", "model.blocks": 2, "a.x": 1, "b.x": 2}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr_d <= lr_g", True),
        ("train.lr_d > train.lr_g", False),
        ("lr_d <= 0.05 * lr_g", False),
        ("0 < blocks < 3 and gan == 'hinge'", True),
        ("gan in ['nsgan', 'lsgan'] or not blocks == 2", False),
        ("-lr_g < 0 and a.x + b.x == 3", True),
        ("blocks / 0 > 1", False),
        ("gan < 3", False),
        ("gan + gan == 'hingehinge'", False),
    ],
)
def test_conditions_mean_what_they_say(text, expected):
    assert Condition.parse(text, names=KNOWN).holds(VALUES) is expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lr_e <= lr_g", "did you mean"),
        ("x < 3", "may be a.x or b.x"),
        ("__import__('os').system('true')", "cannot be used"),
        ("(lambda: 1)() == 1", "cannot be used"),
        ("[v for v in [1]] == [1]", "cannot be used"),
        ("lr_g ** 9 ** 9 > 1", "cannot be used"),
        ("f'{lr_g}' == ''", "cannot be used"),
        ("lr_g.__class__ == 1", "names no setting"),
        ("lr_g <=", "is no condition"),
        ("", "is no condition"),
        ("lr_g", "compares nothing"),
        ("lr_g < " + "1+" * 600 + "1", "characters"),
    ],
)
def test_what_is_no_condition_is_refused_in_a_sentence(text, words):
    with pytest.raises(UserError, match=words):
        Condition.parse(text, names=KNOWN)


@given(st.text(max_size=80))
def test_no_text_does_anything_but_be_read_or_refused(text):
    try:
        read = Condition.parse(text, names=KNOWN)
    except UserError:
        return
    assert read.holds(VALUES) in (True, False)
