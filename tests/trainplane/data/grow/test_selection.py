"""Samples are chosen by key, and a share stays when the dataset grows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_datasets import make

from trainplane.data.grow.selection import keys_of, sample_share, samples_named
from trainplane.errors import UserError


def test_keys_and_paths_name_samples_and_others_are_answered_with_the_nearest(tmp_path: Path) -> None:
    dataset = make(tmp_path / "mine", 30)
    keys = list(keys_of(dataset))
    assert list(np.flatnonzero(samples_named(dataset, [keys[4], "00009.png"]))) == [4, 9]
    with pytest.raises(
        UserError, match=rf"small lacks 2 of the keys in the list: '00021.jpg' \(the nearest: {keys[21]}"
    ):
        samples_named(dataset, [keys[4], "00021.jpg", "holiday"])


def test_a_share_is_about_as_large_and_grows_with_its_dataset(tmp_path: Path) -> None:
    small, large = make(tmp_path / "small", 200), make(tmp_path / "large", 400)
    chosen = {key for key, one in zip(keys_of(small), sample_share(small, 0.25), strict=True) if one}
    more = {key for key, one in zip(keys_of(large), sample_share(large, 0.25), strict=True) if one}
    assert 30 <= len(chosen) <= 70
    assert chosen == more & set(keys_of(small))
    assert set(np.flatnonzero(sample_share(small, 0.1))) < set(np.flatnonzero(sample_share(small, 0.5)))
    assert sample_share(small, 1).all()
    assert sample_share(small, 1e-9).sum() == 1
    assert not np.array_equal(sample_share(small, 0.5), sample_share(small, 0.5, seed=1))
    for wrong in (0, -1, 1.5, float("nan")):
        with pytest.raises(UserError, match="need more than 0 and at most 1"):
            sample_share(small, wrong)
