"""The ways that `isnet bench overhead` compares do the same work, in little."""

from __future__ import annotations

import pytest

from jobs.bench import overhead
from jobs.bench.common import Timing

SMALL = ("model.width=4", "data.size=32", "data.resize=40", "train.global_batch=2", "loss.style=0", "loss.perceptual=0")


@pytest.mark.nightly
def test_every_way_is_timed_and_the_bare_loop_ends_on_the_runs_weights(isnet):
    ran = isnet("bench", "overhead", "demo", *SMALL, "--steps", "3", "--rounds", "1", "--json")
    # Three steps are no measurement: whether the target is met says nothing here.
    assert ran.status in (0, 1), ran.err
    report = ran.json()
    assert report["same_weights"]
    assert set(report["pictures_per_s"]) == {"train", "bare", "loop"}
    assert all(figure["value"] > 0.2 for figure in report["figures"])


def test_a_figure_is_the_median_of_neighbours_and_says_how_far_they_lie_apart():
    bare, train = [Timing(1.0, 1.0), Timing(2.0, 1.0), Timing(9.0, 1.0)], [Timing(1.0, 2.0)] * 3
    by_wall = overhead.ratio_figure("x", bare, train, "wall")
    assert (by_wall["value"], by_wall["range"], by_wall["met"]) == (2.0, [1.0, 9.0], True)
    assert overhead.ratio_figure("x", bare, train, "cpu")["met"] is False


def test_the_share_of_the_steps_leaves_out_what_comes_at_a_cadence_of_its_own():
    seconds = {"wall": 110.0, "step": 97.0, "data": 2.0, "checkpoint": 6.0, "validate": 4.0}
    assert overhead.steps_share(seconds) == 0.97
    share = overhead.spread_figure("x", [0.96, 0.99, 0.98], "share")
    assert (share["value"], share["range"], share["met"]) == (0.98, [0.96, 0.99], True)
    assert overhead.spread_figure("x", [0.9], "share")["met"] is False
