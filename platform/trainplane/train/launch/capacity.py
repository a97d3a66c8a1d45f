"""Capacity of a Ray cluster beside its other work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

from trainplane.cluster.autoscaler import AUTOSCALER_WAIT_S, NodeRequest, node_wait_s
from trainplane.cluster.ray_session import in_ray_job
from trainplane.errors import RunFailed, UserError
from trainplane.train import batch_size
from trainplane.train.config import TrainConfig
from trainplane.train.launch.failure_policy import NodeBlame

# Seconds to wait for resources that an earlier attempt is about to release.
CAPACITY_WAIT_S = 30.0


class ClusterCapacity:
    """Number of ranks that a cluster can hold."""

    def __init__(self, ray: Any, config: TrainConfig) -> None:
        self._ray = ray
        self._config = config
        self._started = False
        # Ids of nodes that get no ranks of the next attempt.
        self.excluded: frozenset[str] = frozenset()
        self._request: NodeRequest | None = None
        # Number of ranks that fitted last while more were requested, and since when.
        self._last_possible = (0, 0.0)
        gpus = ray.cluster_resources().get("GPU", 0)
        self.use_gpu = config.use_gpu is True or (config.use_gpu == "auto" and gpus > 0)
        self.resources = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if self.use_gpu else {})}

    @property
    def wait_s(self) -> float:
        """Seconds that the first attempt waits for missing nodes."""
        return node_wait_s(self._config.wait_for_nodes, self._ray)

    def ranks(
        self,
        *,
        interrupted: Callable[[], bool] = lambda: False,
        blame: NodeBlame | None = None,
        emit: Callable[[str], None] = lambda message: None,
    ) -> int:
        """Waits for the largest admissible number of ranks that fits.

        Leaves out the nodes that `blame` avoids, and those that it suspects where the others have room. Asks an
        autoscaler for nodes that are missing and `emit`s what it waits for. After the first attempt it waits without
        one, too, because lost nodes may be replaced; `interrupted` ends it with `KeyboardInterrupt`. Raises `UserError`
        where the cluster was too small from the start, `RunFailed` where it became so.
        """
        sizes, started, blame = self._config.world_sizes, time.monotonic(), blame or NodeBlame()
        first_wait_s = 0.0 if self._started else self.wait_s
        try:
            return self._wait_for_ranks(sizes, started, blame, first_wait_s, interrupted, emit)
        finally:
            self._cancel_request()

    def _wait_for_ranks(
        self,
        sizes: list[int],
        started: float,
        blame: NodeBlame,
        first_wait_s: float,
        interrupted: Callable[[], bool],
        emit: Callable[[str], None],
    ) -> int:
        while True:
            # Nodes whose GPUs failed once get ranks only where there are too few others.
            for self.excluded in (blame.avoided | blame.suspected, blame.avoided):
                possible = batch_size.ranks_for(sizes, capacity=self._num_fitting(self._total()))
                if possible is not None:
                    break
            available = batch_size.ranks_for(sizes, capacity=self._num_fitting(self._free()))
            waited = time.monotonic() - started
            # To a cluster of this command alone no other nodes come.
            may_grow = self._started and (in_ray_job() or not blame.avoided)
            limit_s = AUTOSCALER_WAIT_S if may_grow else first_wait_s
            if possible is None and waited >= limit_s:
                self._give_up(sizes[0], waited)
            elif possible is None and self._request is None and self._ray.is_initialized():
                # The largest group: an elastic run starts as soon as the smallest fits.
                self._request = NodeRequest([self.resources] * sizes[-1])
                emit(f"waiting up to {limit_s / 60:g} min for nodes: {self._shortage(sizes[0])}")
            elif possible is not None and self._request is not None:
                # What the request reserved is free for the group then.
                if self._may_start(possible):
                    self._cancel_request()
            elif possible is not None and (available == possible or waited > CAPACITY_WAIT_S):
                self._started = True
                # If other work has taken everything, Ray waits for the smallest group.
                return available or sizes[0]
            if interrupted():
                raise KeyboardInterrupt
            time.sleep(0.5)

    def _may_start(self, possible: int) -> bool:
        # More nodes may be on their way to an elastic run; those that come later are found while it runs.
        assert self._request is not None
        return possible == self._config.world_sizes[-1] or self._request.is_met() or self._settled(possible)

    def _settled(self, possible: int) -> bool:
        """True if the number has not changed for a while."""
        now = time.monotonic()
        if self._last_possible[0] != possible:
            self._last_possible = (possible, now)
        return now - self._last_possible[1] > CAPACITY_WAIT_S

    def _cancel_request(self) -> None:
        if self._request is not None and self._ray.is_initialized():
            self._request.cancel()
        self._request = None

    def _give_up(self, smallest: int, waited: float) -> NoReturn:
        if not self._started:
            waiting = f"no nodes came in {waited / 60:.0f} min: " if waited >= 60 else ""
            raise UserError(waiting + self._refusal(smallest))
        if self.excluded:
            raise RunFailed(
                f"{len(self.excluded)} of the cluster's nodes are left out because their GPUs failed twice, and the "
                f"others are too few ({self._refusal(smallest)}); replace them and run the same command again: it "
                "resumes from the last checkpoint"
            )
        raise RunFailed(
            f"nodes were lost and not replaced for {waited / 60:.0f} minutes ({self._refusal(smallest)}); "
            "add nodes and run the same command again: it resumes from the last checkpoint"
        )

    def largest(self) -> int:
        """Largest number in an idle cluster; `UserError` if none fits."""
        sizes = self._config.world_sizes
        possible = batch_size.ranks_for(sizes, capacity=self._num_fitting(self._total()))
        if possible is None:
            raise UserError(self._refusal(sizes[0]))
        return possible

    def can_grow(self, ranks: int) -> bool:
        """True if more than the running ranks would fit now."""
        free = {name: amount + ranks * self.resources[name] for name, amount in self._free().items()}
        return (batch_size.ranks_for(self._config.world_sizes, capacity=self._num_fitting(free)) or 0) > ranks

    def _free(self) -> dict[str, float]:
        """Free resources, on nodes that stay."""
        unusable = self._unusable()
        if not unusable:
            free = self._ray.available_resources()
            return {name: free.get(name, 0.0) for name in self.resources}
        # Ray's sums include these nodes, so add up the others.
        from ray._private.state import available_resources_per_node

        staying = [free for node, free in available_resources_per_node().items() if node not in unusable]
        return {name: sum(free.get(name, 0.0) for free in staying) for name in self.resources}

    def _staying(self) -> list[dict[str, float]]:
        """Resources of each living node that stays."""
        unusable = self._unusable()
        return [n["Resources"] for n in self._ray.nodes() if n["Alive"] and n.get("NodeID") not in unusable]

    def _unusable(self) -> set[str]:
        # Ids of nodes that get no ranks.
        return self._leaving() | self.excluded

    def _leaving(self) -> set[str]:
        # Ids of nodes that Ray drains. They count as alive until they end, but Ray places nothing there.
        if not self._ray.is_initialized():
            return set()
        from ray._private.state import state

        return set(state.get_draining_nodes())

    def _total(self) -> dict[str, float]:
        """All resources, on nodes that stay."""
        staying = self._staying()
        return {name: sum(node.get(name, 0.0) for node in staying) for name in self.resources}

    def _num_fitting(self, amounts: dict[str, float]) -> int:
        # Number of ranks that fit. Bounded by the amounts, and by the size of each node: a rank does not span two
        # nodes.
        # Resources are floats: 1e-9 allows for rounding.
        by_node = sum(
            min(int((node.get(name, 0.0) + 1e-9) // amount) for name, amount in self.resources.items())
            for node in self._staying()
        )
        return min(by_node, *(int((amounts[name] + 1e-9) // amount) for name, amount in self.resources.items()))

    def _advised(self, room: int) -> int:
        """Largest number of ranks within `room` that divides the batch."""
        train = self._config
        sizes = batch_size.admissible_ranks(
            global_batch=train.global_batch, low=1, high=room, micro_batch=train.fixed_micro
        )
        return sizes[-1] if sizes else 1

    def _shortage(self, smallest: int) -> str:
        # Name the first resource that is short: GPUs, then CPUs.
        has, cpus = self._total(), smallest * self._config.cpus_per_worker
        if self.use_gpu and has["GPU"] < smallest:
            return f"{smallest} workers need {smallest} GPUs, one each, and the cluster has {has['GPU']:g}"
        return (
            f"train.workers={smallest} × train.cpus_per_worker={self._config.cpus_per_worker:g} need {cpus:g} CPUs and "
            f"the cluster has {has['CPU']:g}"
        )

    def _refusal(self, smallest: int) -> str:
        has, shortage = self._total(), self._shortage(smallest)
        # No setting helps where there is nothing to run on.
        if not has["CPU"]:
            return f"{shortage}; add nodes, or set train.wait_for_nodes=900 where they come by themselves"
        if self.use_gpu and has["GPU"] < smallest:
            return f"{shortage}; set train.workers={self._advised(int(has['GPU']))}, or train.use_gpu=false"
        fits = int(has["CPU"] // self._config.cpus_per_worker)
        advice = f"; set train.workers={self._advised(fits)}"
        return shortage + advice + ("" if fits else f" and train.cpus_per_worker={has['CPU']:g}")
