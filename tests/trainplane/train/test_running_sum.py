"""A sum in groups has the bits of one flat sum at the end, and sends no more bytes."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from forked_ranks import run_ranks

import isnet
from isnet.gan import GAN, GanSettings, LossWeights
from isnet.training import gradient_sum
from trainplane.train import running_sum
from trainplane.train.running_sum import RunningSum


def gradients(rank, sizes):
    """Values of many magnitudes, so that another order of additions has other bits."""
    generator = torch.Generator().manual_seed(rank)
    return [
        torch.randn(size, generator=generator) * torch.exp(4 * torch.randn(size, generator=generator)) for size in sizes
    ]


def flat_sum(sizes):
    def rank(world):
        tensors = gradients(world.rank, sizes)
        world.sum_(tensors)
        return [tensor.numpy() for tensor in tensors]

    return rank


def grouped_sum(sizes, groups):
    """Sums the tensors of each group in their turn."""

    def rank(world):
        tensors = gradients(world.rank, sizes)
        running = world.start_sum(sum(sizes))
        for low, high in groups:
            running.add(tensors[low:high], first=sum(sizes[:low]))
        running.finish()
        return [tensor.numpy() for tensor in tensors]

    return rank


@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        # The last first, as backward passes have them; one of a single element; a few fewer than ranks.
        ([1000, 13, 1, 700, 291], [(4, 5), (2, 4), (0, 2)]),
        ([3, 2], [(1, 2), (0, 1)]),
        # More than a MiB of each rank: the ring has more segments then.
        ([1_500_003, 9, 700_000], [(2, 3), (0, 2)]),
    ],
)
def test_the_bits_are_those_of_the_flat_sum(size, sizes, groups):
    expected = run_ranks(flat_sum(sizes), size)
    found = run_ranks(grouped_sum(sizes, groups), size)
    for ours, theirs in zip(found, expected, strict=True):
        assert all((a == b).all() for a, b in zip(ours, theirs, strict=True))


def test_messages_and_bytes_are_counted():
    sizes, groups, size = [900, 33, 64], [(2, 3), (0, 2)], 4

    def rank(world):
        sent = []
        to_all, gather = dist.all_to_all_single, dist.all_gather_into_tensor

        def count(function, name):
            def counted(output, data, **args):
                # What a rank keeps for itself is not sent.
                num_bytes = data.numel() * data.element_size()
                sent.append((name, num_bytes * (size - 1) // (size if name == "parts" else 1)))
                return function(output, data, **args)

            return counted

        running_sum.dist = SimpleNamespace(
            all_to_all_single=count(to_all, "parts"), all_gather_into_tensor=count(gather, "sums")
        )
        grouped_sum(sizes, groups)(world)
        return sent

    # Two messages a group. Of n numbers a rank sends 2 n (size - 1) / size, as a ring does; 933 are padded to 936.
    of_ring = [4 * count * (size - 1) // size for count in (64, 936)]
    parts, sums = ([(name, num_bytes) for num_bytes in of_ring] for name in ("parts", "sums"))
    assert run_ranks(rank, size) == [[parts[0], sums[0], parts[1], sums[1]]] * size


def test_a_step_of_a_gan_has_the_bits_of_a_flat_sum_of_all_gradients(monkeypatch):
    # Several buckets of each network, although it is small.
    monkeypatch.setattr(gradient_sum, "BUCKET_BYTES", 20_000)

    def end(world, reduce):
        torch.manual_seed(0)
        networks = isnet.build("isnet", blocks=1, width=8), isnet.build("discriminator", width=8)
        settings = GanSettings(loss=LossWeights(perceptual=0.0, style=0.0))
        players = GAN(*networks, settings, perceptual=None, device="cpu")
        torch.manual_seed(world.rank)
        mask = torch.ones(1, 1, 32, 32)
        mask[:, :, 8:24, 8:24] = 0
        players.step([(torch.rand(1, 3, 32, 32), mask) for _ in range(2)], global_batch=6, reduce=reduce)
        return [value.numpy() for module in players.modules().values() for value in module.state_dict().values()]

    def rank(world):
        buckets, flat = end(world, world), end(world, SimpleNamespace(sum_=world.sum_))
        return [(a == b).all() for a, b in zip(buckets, flat, strict=True)]

    assert all(all(equal) for equal in run_ranks(rank, 3))


def test_one_rank_sends_nothing_and_changes_nothing():
    tensor = torch.tensor([1.5])
    running = RunningSum(rank=0, size=1, total=1)
    running.add([tensor], first=0)
    running.finish()
    assert tensor.tolist() == [1.5]


def test_tensors_of_two_dtypes_are_refused():
    running = RunningSum(rank=0, size=2, total=2)
    with pytest.raises(ValueError, match="2 dtypes"):
        running.add([torch.ones(1), torch.ones(1, dtype=torch.float64)], first=0)
