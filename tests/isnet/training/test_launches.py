"""A step of the paper's size launches few kernels, most of them arithmetic of its networks."""

import pytest
import torch

from isnet.training.launches import LaunchCounter
from isnet.training.memory import step_launches
from jobs.config import load_run_config
from jobs.train.memory import on_meta_device


def test_lists_views_and_backward_convolutions_are_counted_as_kernels():
    layer = torch.nn.Conv2d(3, 4, 3, bias=False)
    x = torch.rand(1, 3, 8, 8, requires_grad=True)
    with LaunchCounter() as counter:
        layer(x).view(-1).sum().backward()
        torch._foreach_add_([torch.empty(1) for _ in range(250)], 1.0)
    assert counter.by_operator["convolution_backward"] == 2
    # 110 tensors at once.
    assert counter.by_operator["_foreach_add_"] == 3
    assert "view" not in counter.by_operator
    assert counter.by_operator["convolution"] == 1


@pytest.mark.parametrize("overrides", [[], ["train.channels_last=true", "train.ema=0.999"]])
def test_a_step_of_places2_launches_little_beside_its_networks(overrides):
    config = load_run_config("places2", overrides)
    counter = step_launches(on_meta_device(config), size=config.data.size, micro_batch=config.train.global_batch)
    # One by one the 96 normalised layers alone launched 1,440.
    assert counter.total < 1220
    of_networks = ("convolution", "convolution_backward", "tanh_", "tanh_backward", "relu_", "threshold_backward")
    assert sum(counter.by_operator[name] for name in of_networks) > 0.45 * counter.total
    assert counter.by_operator["mv"] == counter.by_operator["dot"] == 0
