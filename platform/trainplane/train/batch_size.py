"""Splits one global batch over ranks and micro-batches.

Pure: no I/O. The global batch is the same at any number of ranks. A number of ranks is *admissible* when it divides the
global batch and a fixed micro-batch divides each rank's share. An elastic run takes the largest that fits the cluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BatchSplit:
    """Micro-batch × ranks × accumulation of one global batch."""

    global_batch: int
    ranks: int
    micro_batch: int

    @property
    def share(self) -> int:
        """Samples of each rank per step."""
        return self.global_batch // self.ranks

    @property
    def accumulation(self) -> int:
        """Forward passes of each rank per step."""
        return self.share // self.micro_batch

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        cut = f"{ranks} × {self.micro_batch} at once × {self.accumulation} in turn"
        return f"{self.global_batch} samples a step = {cut}"


def split_batch(*, global_batch: int, ranks: int, micro_batch: int | None) -> BatchSplit:
    """Returns the split for an admissible number of ranks."""
    # The micro-batch is the largest divisor of a rank's share that is not above `micro_batch`.
    share = global_batch // ranks
    limit = min(micro_batch or share, share)
    return BatchSplit(global_batch, ranks, next(size for size in range(limit, 0, -1) if share % size == 0))


def smaller_micro_batch(share: int, tried: int) -> int | None:
    """Returns the micro-batch to try after `tried` did not fit."""
    # That is the largest divisor of the share that is at most half of it; None where nothing smaller is left.
    return next((size for size in range(tried // 2, 0, -1) if share % size == 0), None)


def memory_limit(found: int | None, meta: Mapping[str, Any], memory_bytes: int) -> tuple[int | None, int]:
    """Largest micro-batch of `auto`, and the memory then.

    Args:
        found: Size that this command found after memory ran out.
        meta: Of the checkpoint, empty without one.
        memory_bytes: Memory of the device now. With more than before a limit is forgotten.
    """
    # Checkpoints of older code have the micro-batch, which may be a small share of many ranks.
    limit, memory_then = meta.get("memory_limit", (meta.get("micro_batch"), memory_bytes))
    return found or (limit if memory_bytes <= memory_then else None), memory_bytes


def admissible_ranks(*, global_batch: int, low: int, high: int, micro_batch: int | None) -> list[int]:
    """Admissible numbers of ranks from `low` to `high`, ascending."""
    step = micro_batch or 1
    # More ranks than samples divide nothing. Without this bound a typing error in `high` would count for ever.
    return [
        n for n in range(low, min(high, global_batch) + 1) if global_batch % n == 0 and (global_batch // n) % step == 0
    ]


def check_divisible(*, global_batch: int, low: int, high: int, micro_batch: int | None, room: int) -> None:
    """Raises `ValueError` where no number of ranks divides the batch.

    `room` is the number of ranks that fit on this machine, for a remedy that works here.
    """
    if admissible_ranks(global_batch=global_batch, low=low, high=high, micro_batch=micro_batch):
        return
    workers = f"{low}" if low == high else f"[{low}, {high}]"
    # The batch itself does not divide: propose the multiples of `high` on both sides of it.
    if not admissible_ranks(global_batch=global_batch, low=low, high=high, micro_batch=None):
        lower = global_batch - global_batch % high
        batches = f"train.global_batch={f'{lower} or ' if lower else ''}{lower + high}"
        refusal = f"train.global_batch={global_batch} does not divide over train.workers={workers}"
        # Never advise what the next check would refuse.
        if high <= room:
            raise ValueError(f"{refusal}; set {batches}")
        fits = admissible_ranks(global_batch=global_batch, low=1, high=room, micro_batch=micro_batch) or [1]
        raise ValueError(
            f"{refusal}, and this machine has room for {room}; set train.workers={fits[-1]}, or {batches} on a cluster"
        )
    # Only the fixed micro-batch is in the way.
    if low == high:
        share = global_batch // low
        raise ValueError(
            f"train.micro_batch={micro_batch} does not divide each rank's share of {share} samples; "
            f"choose a divisor of {share}, or train.micro_batch=auto"
        )
    raise ValueError(
        f"train.micro_batch={micro_batch} divides no rank's share of train.global_batch={global_batch} over "
        f"train.workers={workers}; choose a smaller one, or train.micro_batch=auto"
    )


def ranks_for(sizes: list[int], *, capacity: int) -> int | None:
    """Returns the largest of `sizes` that fits into `capacity`."""
    return max((size for size in sizes if size <= capacity), default=None)
