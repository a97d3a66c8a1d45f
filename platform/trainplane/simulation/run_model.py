"""Time, cost and bottleneck of a run, from measured parts.

A step is the slowest rank's arithmetic, then what of the sum of gradients does not fit beside it, then what the ranks
wait for data. Sums go round a ring: first within each node, then between nodes, where all ranks of a node share its
network. Data come from the loader's processors, and from a store with a throughput and a limit on requests. Failures
strike nodes at a steady rate; each costs a start and half of the interval between checkpoints.
Not covered: several runs on one network, slow nodes that stay slow, spot prices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

Bottleneck = Literal["arithmetic", "sum of gradients", "loader", "store's throughput", "store's requests"]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Measured parts of a run, in seconds, bytes and pictures."""

    # One rank, alone on its node.
    picture_s: float  # arithmetic of one picture
    fixed_s: float = 0.0  # of a step, however few pictures: launches, optimiser
    spread: float = 0.0  # standard deviation of a rank's step, as a share of it
    # Sum of gradients.
    gradient_bytes: int
    link: float  # bytes a second between ranks of one node
    network: float  # bytes a second of one node to the others
    hop_s: float = 30e-6  # time of a message without content
    overlap: float = 0.0  # share of the arithmetic beside which sums run for nothing
    # Data.
    decoded_per_s: float  # pictures that one rank's loader decodes a second
    picture_bytes: int
    pictures_per_request: float = 16.0
    store_bytes_per_s: float  # all of the store
    host_bytes_per_s: float  # what one node can take of it
    store_requests_per_s: float = 5500.0  # S3: GETs of one prefix
    # Checkpoints, starts, failures.
    state_bytes: int
    copy_bytes_per_s: float = 5e9  # from the device to the host, for which the step waits
    put_bytes_per_s: float = 100e6  # one writer to the store
    checkpoint_s: float  # between two
    start_s: float = 60.0  # of a rank: image, imports, device
    meeting_s: float = 2.0  # of all ranks, for each doubling of their number
    failures_per_node_hour: float = 1 / 2000


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Ranks, nodes and their price."""

    ranks: int
    nodes: int
    ranks_at_once: int | None = None  # ranks of a node that compute side by side; None: all
    price_per_rank_hour: float = 0.0

    @property
    def ranks_a_node(self) -> int:
        """Most ranks of one node."""
        return math.ceil(self.ranks / self.nodes)

    @property
    def crowding(self) -> float:
        """Factor of the arithmetic where ranks take turns."""
        return max(1.0, self.ranks_a_node / self.ranks_at_once) if self.ranks_at_once else 1.0


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """Result; seconds, bytes and money."""

    ranks: int
    nodes: int
    arithmetic_s: float
    sum_s: float  # whole sum of a step's gradients
    exposed_sum_s: float  # part of it that the step waits for
    data_wait_s: float
    step_s: float
    pictures_per_s: float
    efficiency: float  # of perfect scaling from one rank
    bottleneck: Bottleneck
    start_s: float
    failures: float
    lost_s: float  # to failures and checkpoints
    total_s: float
    cost: float
    store_bytes_per_s: float
    store_requests_per_s: float
    upload_s: float  # of one checkpoint


def simulate(parts: Parts, fleet: Fleet, *, global_batch: int, steps: int) -> Simulated:
    """Computes a run of `steps` steps."""
    share = global_batch / fleet.ranks
    arithmetic = (share * parts.picture_s + parts.fixed_s) * fleet.crowding
    # All wait for the slowest of n: about √(2 ln n) deviations above the mean.
    arithmetic *= 1 + parts.spread * math.sqrt(2 * math.log(fleet.ranks))
    summed = sum_s(parts, fleet)
    exposed = max(0.0, summed - parts.overlap * arithmetic)
    busy = arithmetic + exposed
    # Seconds that each source of data needs for one step's pictures; they run beside the step.
    # A crowded node's loader shares its processors, too.
    supply: dict[Bottleneck, float] = {
        "loader": share / parts.decoded_per_s * fleet.crowding,
        "store's throughput": global_batch
        * parts.picture_bytes
        / min(parts.store_bytes_per_s, fleet.nodes * parts.host_bytes_per_s),
        "store's requests": global_batch / parts.pictures_per_request / parts.store_requests_per_s,
    }
    slowest = max(supply, key=lambda name: supply[name])
    step = max(busy, supply[slowest])
    bottleneck: Bottleneck = slowest if supply[slowest] > busy else "sum of gradients"
    if bottleneck == "sum of gradients" and arithmetic >= exposed:
        bottleneck = "arithmetic"
    rate = global_batch / step
    # Checkpoints stop the step for the copy alone; failures cost a start and half an interval.
    copies = steps * step / parts.checkpoint_s * (parts.state_bytes / parts.copy_bytes_per_s)
    start = parts.start_s + parts.meeting_s * math.log2(max(2, fleet.ranks))
    working = steps * step + copies
    per_s = parts.failures_per_node_hour * fleet.nodes / 3600
    # Failures strike what was lost as well, a geometric series; a run that never gets on is infinite.
    loss = per_s * (start + parts.checkpoint_s / 2)
    total = start + (working / (1 - loss) if loss < 1 else math.inf)
    alone = parts.picture_s * global_batch + parts.fixed_s
    return Simulated(
        ranks=fleet.ranks,
        nodes=fleet.nodes,
        arithmetic_s=arithmetic,
        sum_s=summed,
        exposed_sum_s=exposed,
        data_wait_s=step - busy,
        step_s=step,
        pictures_per_s=rate,
        efficiency=alone / fleet.ranks / step,
        bottleneck=bottleneck,
        start_s=start,
        failures=total * per_s,
        lost_s=total - start - steps * step,
        total_s=total,
        cost=fleet.price_per_rank_hour * fleet.ranks * total / 3600,
        store_bytes_per_s=rate * parts.picture_bytes,
        store_requests_per_s=rate / parts.pictures_per_request,
        upload_s=parts.state_bytes / parts.put_bytes_per_s,
    )


def sum_s(parts: Parts, fleet: Fleet) -> float:
    """Seconds of one sum of all gradients, ring within ring."""
    inside, outside = fleet.ranks_a_node, fleet.nodes
    return _ring(parts.gradient_bytes, inside, parts.link, parts.hop_s) + _ring(
        parts.gradient_bytes, outside, parts.network, parts.hop_s
    )


def _ring(size: int, members: int, bandwidth: float, hop_s: float) -> float:
    # Each member sends 2(n - 1)/n of the bytes, in 2(n - 1) messages one after the other.
    return 2 * (members - 1) * (size / members / bandwidth + hop_s)


def grown(fleet: Fleet, ranks: int) -> Fleet:
    """The fleet with other ranks, as many a node."""
    return replace(fleet, ranks=ranks, nodes=math.ceil(ranks / fleet.ranks_a_node))


def faults(parts: Parts, result: Simulated) -> list[str]:
    """Sentences about limits that the run would meet."""
    sentences = []
    if result.store_requests_per_s > 0.8 * parts.store_requests_per_s:
        sentences.append(
            f"{result.store_requests_per_s:.0f} requests a second, and the store takes "
            f"{parts.store_requests_per_s:.0f} of one prefix; give the hosts a cache with "
            "data.cache_dir, or spread the shards over prefixes"
        )
    if result.upload_s > parts.checkpoint_s:
        sentences.append(
            f"a checkpoint takes {result.upload_s:.0f} s to store, and the next one is due after "
            f"{parts.checkpoint_s:.0f} s; set a longer train.checkpoint_every"
        )
    if not math.isfinite(result.total_s):
        sentences.append(
            "failures come faster than the run gets on; set a shorter train.checkpoint_every, or take fewer nodes"
        )
    return sentences
