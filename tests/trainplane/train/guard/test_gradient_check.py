"""Gradients beyond `train.clip_norm` are scaled, each network by itself; the guard sees them as they were."""

import pytest
import torch
from tiny_task import TinyConfig, TinyTask

from trainplane.config.load import build
from trainplane.train.guard.gradient_check import GradientCheck
from trainplane.train.world import World


def tiny():
    train = {"steps": 1, "global_batch": 4, "lr_g": 0.01, "lr_d": 0.01}
    torch.manual_seed(0)
    return TinyTask(build(TinyConfig, {"name": "tiny", "data": {"train": "t"}, "train": train}), torch.device("cpu"))


def step(task, clip_norm, scales):
    """Steps on gradients of these norms; returns those that the optimisers saw, and the guard's observation."""
    check = GradientCheck(task, world=World(), clip_norm=clip_norm)
    for module, norm in zip(task.modules().values(), scales, strict=True):
        parameters = list(module.parameters())
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, norm / sum(p.numel() for p in parameters) ** 0.5)
    check.start()
    for optimizer in task.optimizers().values():
        optimizer.step()
    check.finish(0, {"loss": torch.zeros(())})
    seen = [
        None
        if any(p.grad is None for p in m.parameters())
        else float(torch.cat([p.grad.flatten() for p in m.parameters()]).norm())
        for m in task.modules().values()
    ]
    (observation,) = check.observe()
    return seen, observation


@pytest.mark.parametrize(
    ("clip_norm", "expected"), [(None, [8.0, 0.5]), (2.0, [2.0, 0.5]), (0.25, [0.25, 0.25]), (100.0, [8.0, 0.5])]
)
def test_each_networks_gradient_is_scaled_to_the_longest(clip_norm, expected):
    seen, observation = step(tiny(), clip_norm, [8.0, 0.5])
    assert seen == pytest.approx(expected, rel=1e-5)
    assert observation.norms == pytest.approx({"adam": 8.0, "sgd": 0.5}, rel=1e-5)
    assert not observation.blocked


def test_a_gradient_that_is_not_finite_still_blocks_the_step():
    task = tiny()
    before = [p.clone() for m in task.modules().values() for p in m.parameters()]
    _, observation = step(task, 1.0, [float("nan"), 0.5])
    assert observation.blocked
    assert all(
        torch.equal(p, old)
        for p, old in zip((p for m in task.modules().values() for p in m.parameters()), before, strict=True)
    )


def test_a_gradient_of_zero_stays_zero():
    seen, _ = step(tiny(), 1.0, [0.0, 3.0])
    assert seen == pytest.approx([0.0, 1.0], rel=1e-5)
