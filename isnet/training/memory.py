"""Memory of a training step, computed without running one.

    footprint = step_footprint(players_on_meta, size=256, micro_batch=6)
    footprint.state, footprint.peak        # bytes
    inference_bytes(architecture, size=256)

It depends on architecture, batch, size and precision. The step's own code runs on tensors that have shapes and no
numbers (torch's FakeTensorMode), and every storage is counted from creation to release. The figure covers all tensors
of the step and nothing else: not the allocator's rounding and gaps, a convolution library's scratch space, a GPU's
context (about 0.5 GB) or the process around it. docs/LOG.md compares it with measurements.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from isnet.errors import InputError
from isnet.generator import Architecture
from isnet.methods.architecture import MethodArchitecture
from isnet.training.distributed import LocalReducer
from isnet.training.launches import LaunchCounter
from isnet.training.players import Players
from isnet.weights import plain_network


@dataclass(frozen=True)
class Footprint:
    """Bytes of a training step.

    Attributes:
        state: Content of a checkpoint: weights and buffers of both players and the moving average, Adam's moments.
        resident: Kept between steps beside it: gradients, normalised weights, VGG.
        peak: Most at once within a step, with all of the above.
    """

    state: int
    resident: int
    peak: int


def step_footprint(
    players: Players, *, size: int, micro_batch: int, accumulation: int = 1, on_gpu: bool = False
) -> Footprint:
    """Computes the footprint of a step of `accumulation` micro-batches.

    Pictures are squares of `size` pixels. `players` were built on torch's device "meta" and cannot be used afterwards;
    their precision and losses are those they were built with.
    """
    if players.device.type != "meta":
        raise InputError(f"the networks are on {players.device}; build them under torch.device('meta')")
    players.on_gpu = on_gpu
    with FakeTensorMode(), _StorageCounter() as storages:
        _put_on_cpu(players)
        micro_batches = [players.example_batch(micro_batch, size) for _ in range(accumulation)]
        # First steps create the optimisers' moments; the last one, which counts, has them from the start.
        starts = players.phase_starts()
        for players.done in (*starts, starts[-1]):
            storages.peak = storages.now
            players.step(micro_batches, global_batch=micro_batch * accumulation, reduce=LocalReducer())
        # Between steps there are no pictures.
        state = state_bytes(players.modules(), players.optimizers())
        del micro_batches
        return Footprint(state, storages.now - state, storages.peak)


def step_launches(players: Players, *, size: int, micro_batch: int) -> LaunchCounter:
    """Counts the kernels of a step in its last phase.

    `players` were built on torch's device "meta" and cannot be used afterwards.
    """
    players.on_gpu = True
    with FakeTensorMode():
        _put_on_cpu(players)
        batch = players.example_batch(micro_batch, size)
        starts = players.phase_starts()
        for players.done in (*starts, starts[-1]):
            counter = LaunchCounter()
            with counter:
                players.step([batch], global_batch=micro_batch, reduce=LocalReducer())
    return counter


def step_operations(players: Players, *, size: int) -> int:
    """Multiplications and additions of a step on one picture.

    `players` were built on torch's device "meta" and cannot be used afterwards.
    """
    with FakeTensorMode():
        _put_on_cpu(players)
        batch = players.example_batch(1, size)
        players.done = players.phase_starts()[-1]
        with FlopCounterMode(display=False) as counter:
            players.step([batch], global_batch=1, reduce=LocalReducer())
    return int(counter.get_total_flops())


def inference_bytes(architecture: Architecture | MethodArchitecture, *, size: int) -> int:
    """Peak bytes of filling one square picture, weights included."""
    with torch.device("meta"):
        # Exported weights have spectral norm folded in.
        network = plain_network(architecture).eval()
    with FakeTensorMode(), _StorageCounter() as storages, torch.no_grad():
        _replace_tensors(network)
        network(torch.rand(1, 3, size, size), torch.ones(1, 1, size, size))
        peak: int = storages.peak
        return peak


def state_bytes(modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer]) -> int:
    """Bytes of all tensors that a checkpoint stores."""
    # Their names take a few kilobytes more.
    tensors = [value for module in modules.values() for value in module.state_dict().values()]
    for optimizer in optimizers.values():
        tensors += [value for slots in optimizer.state.values() for value in slots.values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _put_on_cpu(players: Players) -> None:
    players.device = torch.device("cpu")
    for network in [*players.modules().values(), *players.frozen()]:
        _replace_tensors(network)
    # Optimisers refer to the parameters that were replaced.
    players.make_optimizers()


def _replace_tensors(network: nn.Module) -> None:
    # By tensors of the active mode; Module.to cannot change a tensor's kind.
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            fake = nn.Parameter(_like(parameter), requires_grad=parameter.requires_grad)
            module.register_parameter(name, fake)
        for name, buffer in module.named_buffers(recurse=False):
            module.register_buffer(name, _like(buffer))


def _like(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


class _StorageCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all storages in use."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._counted: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: Any) -> None:
        # Views share their storage.
        if storage in self._counted:
            return
        self._counted.add(storage)
        num_bytes = storage.nbytes()
        self.now += num_bytes
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, num_bytes)

    def _free(self, num_bytes: int) -> None:
        self.now -= num_bytes
