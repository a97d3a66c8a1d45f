"""Counts the kernels that a step launches, without a GPU.

    with LaunchCounter() as counter:
        players.step(...)
    counter.total, counter.by_operator.most_common(10)

Every operator that reaches a device passes a dispatch mode. Views, allocations and reads of metadata launch nothing; a
backward convolution launches one kernel for each gradient it computes; an operator on a list of tensors launches as
many as torch's kernels take tensors and blocks at once. The step may run on tensors without numbers
(`memory.step_launches`). Not covered: the kernels that a convolution library adds for its own layout changes, and what
a compiler fuses; a profile on a GPU shows both (`isnet bench gpu`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# Tensors that one kernel on lists takes, by the number of lists; torch's MultiTensorApply.cuh.
_TENSORS_AT_ONCE = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
# It works in chunks of this many elements, and at most this many of them a kernel.
_CHUNK, _CHUNKS_AT_ONCE = 65536, 320
# Tensors that one concatenating kernel takes; torch's Shape.cu.
_CONCATENATED_AT_ONCE = 128
# Operators that return a tensor of their own and launch nothing, beside views.
_FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "set_", "resize_", "_unsafe_view"}
_FREE |= {"lift_fresh", "lift_fresh_copy", "record_stream", "device", "_record_function_enter_new"}
_FREE |= {"_record_function_exit"}


class LaunchCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts kernels of the block, in all and by operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_operator: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """Kernels of the block."""
        return self.by_operator.total()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kernels = launches_of(function, args)
        if kernels:
            self.by_operator[str(function.overloadpacket.__name__)] += kernels
        return function(*args, **(kwargs or {}))


def launches_of(function: Any, args: Sequence[Any]) -> int:
    """Kernels that one call of an operator launches."""
    name = str(function.overloadpacket.__name__)
    if name in _FREE or function.is_view:
        return 0
    if name == "convolution_backward":
        return sum(args[-1])
    if name in ("cat", "stack"):
        return math.ceil(len(args[0]) / _CONCATENATED_AT_ONCE)
    if name.startswith(("_foreach_", "_fused_adam")):
        return _launches_on_lists([arg for arg in args if isinstance(arg, list | tuple) and _are_tensors(arg)])
    return 1


def _launches_on_lists(lists: Sequence[Sequence[Tensor]]) -> int:
    if not lists or not lists[0]:
        return 0
    # Step counts, one element each, are added to in the same kernels.
    depth = min(sum(len(tensors) == len(lists[0]) for tensors in lists), max(_TENSORS_AT_ONCE))
    chunks = sum(math.ceil(tensor.numel() / _CHUNK) for tensor in lists[0])
    return max(math.ceil(len(lists[0]) / _TENSORS_AT_ONCE[depth]), math.ceil(chunks / _CHUNKS_AT_ONCE))


def _are_tensors(values: Sequence[Any]) -> bool:
    return bool(values) and all(isinstance(value, Tensor) for value in values)
