"""Gradients are summed bucket by bucket, as they are complete, with the same end as one sum."""

import pytest
import torch
from torch import nn

import isnet
from isnet.gan import GAN, GanSettings, LossWeights
from isnet.training import gradient_sum
from isnet.training.gradient_sum import GradientSum


class Doubling:
    """Stands for two ranks with the same gradients: the sum is twice the gradient."""

    def __init__(self):
        self.flat = 0

    def sum_(self, tensors):
        self.flat += 1
        for tensor in tensors:
            tensor.mul_(2)


class Early(Doubling):
    """Sums while computation goes on, and remembers when it was asked."""

    def __init__(self):
        super().__init__()
        self.added, self.total = [], 0

    def start_sum(self, total):
        self.total = total
        return self

    def add(self, tensors, *, first):
        self.added.append((first, sum(tensor.numel() for tensor in tensors), tensors))

    def finish(self):
        for _, _, tensors in self.added:
            for tensor in tensors:
                tensor.mul_(2)


def gan(seed=0):
    torch.manual_seed(seed)
    generator = isnet.build("isnet", blocks=1, width=8)
    settings = GanSettings(loss=LossWeights(perceptual=0.0, style=0.0))
    players = GAN(generator, isnet.build("discriminator", width=8), settings, perceptual=None, device="cpu")
    return players


def batches():
    generator = torch.Generator().manual_seed(1)
    pictures = torch.rand(2, 3, 32, 32, generator=generator)
    mask = torch.ones(2, 1, 32, 32)
    mask[:, :, 8:24, 8:24] = 0
    return list(zip(pictures.split(1), mask.split(1), strict=True))


def weights(players):
    return {name: value for module in players.modules().values() for name, value in module.state_dict().items()}


@pytest.fixture
def small_buckets(monkeypatch):
    monkeypatch.setattr(gradient_sum, "BUCKET_BYTES", 20_000)


def test_a_step_ends_on_the_bits_of_one_sum_at_the_end(small_buckets):
    ends = []
    for reduce in (Doubling(), Early()):
        players = gan()
        for _ in range(2):
            players.step(batches(), global_batch=4, reduce=reduce)
            if isinstance(reduce, Early):
                early = list(reduce.added)
                reduce.added.clear()
        ends.append(weights(players))
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    # Every gradient has been sent once, in the same places.
    counts = [sum(p.numel() for p in players.modules()[name].parameters()) for name in ("generator", "discriminator")]
    assert reduce.total == sum(counts)
    assert sorted((first, count) for first, count, _ in early)[0][0] == 0
    ends_of = sorted((first, first + count) for first, count, _ in early)
    assert [end for _, end in ends_of] == [*[first for first, _ in ends_of][1:], sum(counts)]
    # D's buckets come first, then G's from its last layer on.
    firsts = [first for first, _, _ in early]
    assert firsts == sorted(firsts, reverse=True)
    assert firsts[0] >= counts[0]


def test_d_is_sent_before_g_goes_backward_and_most_of_g_before_it_is_done(small_buckets):
    players, reduce, seen = gan(), Early(), {}
    first_layer = next(iter(players.generator.parameters()))

    def before_g(_):
        seen["before G"] = len(reduce.added)

    def watch_output(module, inputs, output):
        output.register_hook(before_g)

    players.generator.register_forward_hook(watch_output)
    finish = reduce.finish
    reduce.finish = lambda: (seen.setdefault("at the end", len(reduce.added)), finish())
    sums = GradientSum.finish
    try:
        GradientSum.finish = lambda self: (seen.setdefault("backward done", len(reduce.added)), sums(self))
        # With one micro-batch, the first is the last.
        players.step(batches()[:1], global_batch=4, reduce=reduce)
    finally:
        GradientSum.finish = sums
    num_of_d = sum(first >= sum(p.numel() for p in players.generator.parameters()) for first, _, _ in reduce.added)
    assert first_layer.grad is not None
    assert seen == {"before G": num_of_d, "backward done": len(reduce.added), "at the end": len(reduce.added)}
    assert num_of_d >= 2
    assert len(reduce.added) - num_of_d >= 3


def test_a_weight_that_is_reached_twice_is_an_error_and_no_wrong_sum():
    layer = nn.Linear(2, 1)
    sums = GradientSum(Early(), [layer])
    sums.watch()
    layer(torch.ones(1, 2)).sum().backward()
    with pytest.raises(RuntimeError, match="goes backward to a weight twice"):
        layer(torch.ones(1, 2)).sum().backward()


def test_gradients_that_are_missing_are_left_out_and_the_rest_is_sent_at_the_end():
    used, unused, reduce = nn.Linear(2, 1), nn.Linear(2, 1), Early()
    sums = GradientSum(reduce, [used, unused])
    sums.watch()
    used(torch.ones(1, 2)).sum().backward()
    assert reduce.added == []
    sums.finish()
    assert [(first, count) for first, count, _ in reduce.added] == [(3, 0), (0, 3)]
    assert unused.weight.grad is None
    assert used.weight.grad.tolist() == [[2.0, 2.0]]
