"""Order of batches that several datasets share.

A global batch of B slots is divided once: each dataset has a fixed number of them, spread evenly over the batch, so
that ranks and micro-batches are mixed alike. Within its slots a dataset follows an `Order` of its own, with its own
epochs. What comes at a step is therefore a pure function, as with one dataset, for any number of ranks that divides B.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainplane.config.canonical import canonical_json
from trainplane.data.order import Order, rank_slots

# Raise it whenever a slot would go to another dataset.
_SPREAD_VERSION = 1


@dataclass(frozen=True)
class Lane:
    """One dataset's part of a range of slots."""

    number: int  # of the dataset
    order: Order
    slots: range  # counted among the dataset's own
    rows: tuple[int, ...]  # where they lie, from the first slot of the range


class MixedOrder:
    """Order in which one run visits several datasets.

    Args:
        orders: Of each dataset; its `global_batch` is the dataset's number of slots.
    """

    def __init__(self, orders: Sequence[Order]) -> None:
        self.orders = tuple(orders)
        self.global_batch = sum(order.global_batch for order in orders)
        self.steps_per_epoch = orders[0].steps_per_epoch
        """Global steps in one epoch of the first dataset."""
        parameters = {"mixed": _SPREAD_VERSION, "orders": [order.hash for order in orders]}
        self.hash = hashlib.sha256(canonical_json(parameters)).hexdigest()
        """Identity of the order: equal hashes mean equal batches."""
        self._number = spread([order.global_batch for order in orders])

    def slots(self, *, rank: int, world: int) -> range:
        """Slots of a rank; `UserError` unless `world` divides the batch."""
        return rank_slots(self.global_batch, rank=rank, world=world)

    def lanes(self, slots: range) -> list[Lane]:
        """Divides some slots of a batch by dataset."""
        owners = self._number[slots.start : slots.stop]
        lanes = []
        for number, order in enumerate(self.orders):
            rows = np.flatnonzero(owners == number).tolist()
            # Slots of a dataset are counted from the batch's first, so those of a range are consecutive.
            first = int(np.count_nonzero(self._number[: slots.start] == number))
            if rows:
                lanes.append(Lane(number, order, range(first, first + len(rows)), tuple(rows)))
        return lanes


def lanes_of(order: Order | MixedOrder, slots: range) -> list[Lane]:
    """Divides some slots by dataset; one dataset has all."""
    if isinstance(order, MixedOrder):
        return order.lanes(slots)
    return [Lane(0, order, slots, tuple(range(len(slots))))]


def samples_at(order: Order | MixedOrder, step: int) -> list[tuple[int, int]]:
    """Dataset and sample of each slot of a global batch."""
    by_slot: dict[int, tuple[int, int]] = {}
    for lane in lanes_of(order, range(order.global_batch)):
        samples = lane.order.batch(step).tolist()
        by_slot.update((row, (lane.number, sample)) for row, sample in zip(lane.rows, samples, strict=True))
    return [by_slot[row] for row in range(order.global_batch)]


def spread(places: Sequence[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Gives each slot of a batch to a dataset, evenly.

    Args:
        places: Slots of each dataset, at least 1.

    Returns:
        Number of the dataset by slot: int64 (sum of `places`,).
    """
    # Each slot adds to every dataset its places and goes to the one that waits longest, which pays for the whole batch.
    whole = sum(places)
    credit = np.zeros(len(places), dtype=np.int64)
    owners = np.empty(whole, dtype=np.int64)
    for slot in range(whole):
        credit += places
        owners[slot] = np.argmax(credit)
        credit[owners[slot]] -= whole
    return owners
