"""A mixture of kinds of holes: how often each is drawn, and what is refused."""

import numpy as np
import pytest

from jobs.config import load_run_config
from jobs.data.mask_datasets import draw_hole, hole_generator
from jobs.data.mask_mixture import main_kind, shares
from trainplane.errors import UserError


def masks(value):
    return load_run_config("demo", [f"data.masks={value}"]).data


def test_weights_become_probabilities_in_an_order_of_their_own():
    assert shares("box") == {"box": 1}
    assert list(shares(("thin", "box")).items()) == [("box", 0.5), ("thin", 0.5)]
    assert list(shares({"thin": 3, "box": 1, "half": 0}).items()) == [("box", 0.25), ("thin", 0.75)]
    assert main_kind({"thin": 3, "box": 1}) == "thin"


def test_one_kind_draws_as_it_always_did_and_a_mixture_by_its_weights():
    alone = draw_hole("box", 32, 32, np.random.default_rng(0))
    assert np.array_equal(alone, hole_generator("box")(32, 32, np.random.default_rng(0)))
    # Each draw of `half` covers half of the picture to the pixel; a box does not.
    rng = np.random.default_rng(1)
    halves = sum(int(draw_hole({"half": 0.7, "box": 0.3}, 32, 32, rng).sum()) == 512 for _ in range(200))
    assert 120 < halves < 160


def test_settings_take_a_list_or_weights_and_held_out_pictures_the_main_kind():
    assert masks("[irregular, box]").masks == ("irregular", "box")
    mixture = masks("{irregular: 0.7, box: 0.3}")
    assert mixture.masks == {"irregular": 0.7, "box": 0.3}
    assert mixture.evaluation_masks == "irregular"
    assert load_run_config("demo", ["data.masks={a: 1}", "data.val_masks=box"]).data.evaluation_masks == "box"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{irregular: 0, box: 0}", "has no weight above 0, so there is nothing to draw"),
        ("[]", "has no weight above 0"),
        ("{irregular: -1, box: 2}", "data.masks"),
    ],
)
def test_weights_that_sum_to_nothing_are_refused(value, message):
    with pytest.raises(UserError, match=message):
        masks(value)
