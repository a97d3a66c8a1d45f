"""A wrong name of a dataset is answered with those that are there."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_datasets import make

from trainplane.cluster.context import local
from trainplane.data.named import dataset_names, open_dataset
from trainplane.errors import UserError


def test_a_wrong_name_lists_the_datasets_of_the_store(tmp_path: Path) -> None:
    context = local(tmp_path)
    with pytest.raises(UserError, match="check the address, or pack one there"):
        open_dataset("photos", context)
    for name in ("photos-train", "deep/photos-val"):
        make(f"{context.datasets}/{name}", count=2)
    (tmp_path / "datasets" / "unfinished").mkdir()
    assert dataset_names(context.datasets) == ["deep/photos-val", "photos-train"]
    assert open_dataset("photos-train", context).num_samples == 2
    with pytest.raises(UserError, match=r"no dataset \(no manifest.json\); did you mean 'photos-train'\?"):
        open_dataset("photos-trian", context)
    far = r"known: deep/photos-val, photos-train; `isnet data list` describes them"
    with pytest.raises(UserError, match=far):
        open_dataset("zzz", context)
    # The folders around an address are nobody's datasets.
    with pytest.raises(UserError, match="check the address"):
        open_dataset(f"{tmp_path}/photos-trian", context)
