"""Compiled networks are compared with eager ones before any step counts; where they differ the run goes on without."""

import pytest
import torch

import isnet
from isnet.gan import GAN, GanSettings, LocalReducer, LossWeights
from jobs.train.compile_check import check


def gan():
    torch.manual_seed(0)
    generator = isnet.build("isnet", width=4, blocks=1, init_std=0.1)
    discriminator = isnet.build("discriminator", width=4, init_std=0.1)
    settings = GanSettings(loss=LossWeights(perceptual=0.0, style=0.0))
    return GAN(generator, discriminator, settings, perceptual=None, device="cpu")


def batch():
    torch.manual_seed(1)
    return torch.rand(2, 3, 32, 32), (torch.rand(2, 1, 32, 32) > 0.3).float()


def faithful(module, inputs):
    return module.forward


def wrong(module, inputs):
    return lambda *args: tuple(
        value * 1.1 if torch.is_tensor(value) and value.is_floating_point() else value for value in module(*args)
    )


def missing(module, inputs):
    raise RuntimeError("no C++ compiler was found\nand many more lines")


def nothing(module, inputs):
    return lambda *args: tuple(
        value * float("nan") if torch.is_tensor(value) and value.is_floating_point() else value
        for value in module(*args)
    )


def tried(backend, reduce=None):
    """The gate's answer for a generator compiled by `backend`, and the players after it."""
    torch._dynamo.reset()
    players = gan()
    before = {name: value.clone() for name, value in players.generator.state_dict().items()}
    players.generator.compile(backend=backend)
    answer = check(players, *batch(), reduce=reduce or LocalReducer())
    assert all(torch.equal(value, before[name]) for name, value in players.generator.state_dict().items())
    assert all(parameter.grad is None for parameter in players.generator.parameters())
    return answer, players


def test_what_computes_the_same_stays_compiled():
    answer, players = tried(faithful)
    assert answer is None
    assert players.generator._compiled_call_impl is not None


@pytest.mark.parametrize(
    ("backend", "words"),
    [(wrong, "differ in"), (nothing, "differ in"), (missing, "compiling failed (backend='missing' raised")],
)
def test_what_does_not_falls_back_and_says_why(backend, words):
    answer, players = tried(backend)
    assert answer.startswith("train.compile is off for this run: ")
    assert words in answer
    assert "\n" not in answer
    image, mask = batch()
    torch._dynamo.reset()
    assert torch.equal(players.generator(image, mask), players.generator.forward(image, mask))


def test_one_rank_that_finds_fault_takes_all_back():
    class Other:
        """Another rank found fault."""

        def sum_(self, tensors):
            for tensor in tensors:
                tensor += 1

    answer, players = tried(faithful, reduce=Other())
    assert "another rank" in answer
    assert players.generator._compiled_call_impl is None


@pytest.mark.nightly
def test_the_real_compiler_passes_the_gate():
    torch._dynamo.reset()
    players = gan()
    players.generator.compile()
    assert check(players, *batch(), reduce=LocalReducer()) is None
