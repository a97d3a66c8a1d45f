"""PURE: one global batch, whatever the cluster: micro-batch × ranks × accumulation.

The global batch is what the configuration says at any number of ranks. A number of ranks is *admissible* when it
divides the global batch (and, where the user fixed the micro-batch, when that divides each rank's share). An elastic
run takes the largest admissible number that there is room for.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arithmetic:
    """How one global batch is cut up."""

    global_batch: int
    ranks: int
    micro_batch: int

    @property
    def share(self) -> int:
        """Pictures of each rank."""
        return self.global_batch // self.ranks

    @property
    def accumulation(self) -> int:
        """Forward passes of each rank per step."""
        return self.share // self.micro_batch

    def __str__(self) -> str:
        ranks = "1 rank" if self.ranks == 1 else f"{self.ranks} ranks"
        return (
            f"{self.global_batch} pictures a step = {ranks} × {self.micro_batch} at once × {self.accumulation} in turn"
        )


def arithmetic(*, global_batch: int, ranks: int, micro_batch: int | None) -> Arithmetic:
    """The cut at this many ranks: micro-batches of the largest divisor of a rank's share up to `micro_batch`."""
    share = global_batch // ranks
    wanted = min(micro_batch or share, share)
    return Arithmetic(global_batch, ranks, next(size for size in range(wanted, 0, -1) if share % size == 0))


def smaller_micro_batch(share: int, tried: int) -> int | None:
    """What to try when `tried` pictures at once do not fit: the largest divisor of the share up to half of it."""
    return next((size for size in range(tried // 2, 0, -1) if share % size == 0), None)


def admissible(*, global_batch: int, low: int, high: int, micro_batch: int | None) -> list[int]:
    """Numbers of ranks from `low` to `high` that cut the global batch evenly, ascending."""
    step = micro_batch or 1
    # More ranks than pictures cut nothing, and a slip of the finger would count for ever.
    return [
        n for n in range(low, min(high, global_batch) + 1) if global_batch % n == 0 and (global_batch // n) % step == 0
    ]


def check(*, global_batch: int, low: int, high: int, micro_batch: int | None) -> None:
    """`ValueError`, with the field and the remedy, where no number of ranks in the range cuts the batch evenly."""
    if admissible(global_batch=global_batch, low=low, high=high, micro_batch=micro_batch):
        return
    workers = f"{low}" if low == high else f"[{low}, {high}]"
    if not admissible(global_batch=global_batch, low=low, high=high, micro_batch=None):
        lower = global_batch - global_batch % high
        raise ValueError(
            f"train.global_batch={global_batch} does not divide over train.workers={workers}; "
            f"set train.global_batch={f'{lower} or ' if lower else ''}{lower + high}"
        )
    if low == high:
        share = global_batch // low
        raise ValueError(
            f"train.micro_batch={micro_batch} does not divide each rank's share of {share} pictures; "
            f"choose a divisor of {share}, or train.micro_batch=auto"
        )
    raise ValueError(
        f"train.micro_batch={micro_batch} divides no rank's share of train.global_batch={global_batch} over "
        f"train.workers={workers}; choose a smaller one, or train.micro_batch=auto"
    )


def ranks_for(sizes: list[int], *, room: int) -> int | None:
    """The largest admissible number of ranks with room for each; None where not even the smallest fits."""
    return max((size for size in sizes if size <= room), default=None)
