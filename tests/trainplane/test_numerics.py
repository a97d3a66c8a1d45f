"""Switches of torch follow the settings, whatever the run before had."""

import pydantic
import pytest
import torch

from trainplane.numerics import set_numerics
from trainplane.train.config import TrainConfig


@pytest.fixture(autouse=True)
def _as_before():
    yield
    set_numerics(TrainConfig(steps=1, global_batch=1))


def test_each_run_sets_all_switches():
    set_numerics(TrainConfig(steps=1, global_batch=1, deterministic=True, matmul_precision="high"))
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.deterministic
    assert torch.get_float32_matmul_precision() == "high"
    set_numerics(TrainConfig(steps=1, global_batch=1, cudnn_benchmark=True))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.benchmark
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


def test_kernels_chosen_anew_are_not_called_deterministic():
    with pytest.raises(pydantic.ValidationError, match=r"set one of them to false"):
        TrainConfig(steps=1, global_batch=1, deterministic=True, cudnn_benchmark=True)
