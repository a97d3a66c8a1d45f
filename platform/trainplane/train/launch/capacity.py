"""How many ranks a cluster has room for, beside whatever else it does. Starts nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NoReturn

from trainplane.errors import RunFailed, UserError
from trainplane.train import batch_size
from trainplane.train.config import TrainConfig

ROOM_WAIT_S = 30.0
# Cloud nodes take minutes to come.
RETURN_WAIT_S = 900.0


class Room:
    """How many ranks the cluster has room for."""

    def __init__(self, ray: Any, config: TrainConfig) -> None:
        self._ray = ray
        self._config = config
        self._started = False
        gpus = ray.cluster_resources().get("GPU", 0)
        self.use_gpu = config.use_gpu is True or (config.use_gpu == "auto" and gpus > 0)
        self.need = {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if self.use_gpu else {})}

    def ranks(self, *, interrupted: Callable[[], bool] = lambda: False) -> int:
        """Ranks of the next attempt: the largest admissible number there is room for now.

        Waits a little for what an attempt before gives back, and after the first one longer: nodes that went may be
        replaced. Raises `UserError` where the cluster was too small from the start, `RunFailed` where it stays so, and
        `KeyboardInterrupt` where `interrupted` says so meanwhile.
        """
        sizes, began = self._config.world_sizes, time.monotonic()
        while True:
            possible = batch_size.ranks_for(sizes, room=self._fitting(self._total()))
            found = batch_size.ranks_for(sizes, room=self._fitting(self._free()))
            waited = time.monotonic() - began
            if possible is None and waited >= (RETURN_WAIT_S if self._started else 0.0):
                self._give_up(sizes[0], waited)
            elif possible is not None and (found == possible or waited > ROOM_WAIT_S):
                self._started = True
                # Where others have taken everything, Ray waits for the smallest group.
                return found or sizes[0]
            if interrupted():
                raise KeyboardInterrupt
            time.sleep(0.5)

    def _give_up(self, smallest: int, waited: float) -> NoReturn:
        if not self._started:
            raise UserError(self._refusal(smallest))
        raise RunFailed(
            f"nodes went and none came for {waited / 60:.0f} minutes ({self._refusal(smallest)}); "
            "add nodes and run the same command again: it goes on from the last checkpoint"
        )

    def most(self) -> int:
        """The largest admissible number of ranks that the cluster could hold if it did nothing else.

        Raises `UserError` where the cluster is too small for the smallest.
        """
        sizes = self._config.world_sizes
        found = batch_size.ranks_for(sizes, room=self._fitting(self._total()))
        if found is None:
            raise UserError(self._refusal(sizes[0]))
        return found

    def grown(self, ranks: int) -> bool:
        """Whether more ranks than these would fit now, beside whatever else the cluster does."""
        free = {name: amount + ranks * self.need[name] for name, amount in self._free().items()}
        return (batch_size.ranks_for(self._config.world_sizes, room=self._fitting(free)) or 0) > ranks

    def _free(self) -> dict[str, float]:
        """What nobody has taken, on nodes that stay."""
        leaving = self._leaving()
        if not leaving:
            free = self._ray.available_resources()
            return {name: free.get(name, 0.0) for name in self.need}
        from ray._private.state import available_resources_per_node

        staying = [free for node, free in available_resources_per_node().items() if node not in leaving]
        return {name: sum(free.get(name, 0.0) for free in staying) for name in self.need}

    def _staying(self) -> list[dict[str, float]]:
        """Resources of each node that is there and stays."""
        leaving = self._leaving()
        return [n["Resources"] for n in self._ray.nodes() if n["Alive"] and n.get("NodeID") not in leaving]

    def _leaving(self) -> set[str]:
        """Ids of nodes that are being drained: they count as alive until they go, and Ray places nothing there."""
        if not self._ray.is_initialized():
            return set()
        from ray._private.state import state

        return set(state.get_draining_nodes())

    def _total(self) -> dict[str, float]:
        """What there is, on nodes that stay."""
        staying = self._staying()
        return {name: sum(node.get(name, 0.0) for node in staying) for name in self.need}

    def _fitting(self, amounts: dict[str, float]) -> int:
        """Ranks for which there is room: by what is there, and by what each node could hold at most."""
        by_node = sum(
            min(int((node.get(name, 0.0) + 1e-9) // amount) for name, amount in self.need.items())
            for node in self._staying()
        )
        return min(by_node, *(int((amounts[name] + 1e-9) // amount) for name, amount in self.need.items()))

    def _refusal(self, smallest: int) -> str:
        has, cpus = self._total(), smallest * self._config.cpus_per_worker
        if self.use_gpu and has["GPU"] < smallest:
            return (
                f"{smallest} workers need {smallest} GPUs, one each, and the cluster has {has['GPU']:g}; "
                "set train.workers to that number, or train.use_gpu=false"
            )
        fits = int(has["CPU"] // self._config.cpus_per_worker)
        return (
            f"train.workers={smallest} × train.cpus_per_worker={self._config.cpus_per_worker:g} need {cpus:g} CPUs and "
            f"the cluster has {has['CPU']:g}; set train.workers={max(fits, 1)}"
            + ("" if fits else f" and train.cpus_per_worker={has['CPU']:g}")
        )
