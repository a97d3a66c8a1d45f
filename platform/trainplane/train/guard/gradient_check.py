"""The guard's eyes and hands on the device: gradient norms of every step, and no move where they are not sound.

Each optimiser of the task gets a hook before its step. The first one to run, when the gradients of all players are
there and summed over ranks, measures a norm per player; where one is not finite or beyond its limit, every optimiser
of this step is told, on the device, to leave weights, moments and step counts as they are. Nothing waits for the
device: what was seen is read when metrics are recorded. Gradients are equal on all ranks, so all block alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainplane.task import Task
from trainplane.train.guard.policy import Observation
from trainplane.train.world import World


class Watch:
    """Watches one task's optimisers. Call `begin` before each step and `end` after it."""

    def __init__(self, task: Task, *, world: World) -> None:
        self._world = world
        self._device = task.device
        self._optimizers = task.optimizers()
        self._players = sorted(self._optimizers)
        self._limits = torch.full((len(self._players),), math.inf, device=self._device)
        self._norms: Tensor | None = None
        self._pending: list[tuple[int, Tensor]] = []
        for optimizer in self._optimizers.values():
            optimizer.register_step_pre_hook(self._before_move)

    def limit(self, limits: Mapping[str, float]) -> None:
        """Norms beyond which the steps to come are blocked; players that are not named have none."""
        values = [limits.get(player, math.inf) for player in self._players]
        self._limits = torch.tensor(values, device=self._device)

    def begin(self) -> None:
        self._norms = None

    def end(self, index: int, shares: Mapping[str, Tensor]) -> None:
        """Note what was seen of step `index`; `shares` are this rank's shares of its metrics."""
        norms = self._norms if self._norms is not None else torch.zeros(len(self._players), device=self._device)
        metrics = [value.detach().float() for value in shares.values()]
        lost = ~torch.stack(metrics).isfinite().all() if metrics else torch.zeros((), device=self._device)
        seen = torch.cat([norms.double(), self._blocks(norms)[None].double(), lost[None].double()])
        self._pending.append((index, seen))

    def observe(self) -> list[Observation]:
        """What was seen since the last call; all ranks call it together. Waits for the device."""
        if not self._pending:
            return []
        indices = [index for index, _ in self._pending]
        seen = torch.stack([row for _, row in self._pending])
        self._pending = []
        # A loss is this rank's own; one rank's NaN is everyone's.
        lost = seen[:, -1].contiguous()
        self._world.sum_([lost])
        found = []
        for index, (*norms, blocked, _), anywhere in zip(indices, seen.tolist(), lost.tolist(), strict=True):
            by_player = {
                player: norm if math.isfinite(norm) else None for player, norm in zip(self._players, norms, strict=True)
            }
            found.append(Observation(index, by_player, bool(blocked), anywhere == 0))
        return found

    def _blocks(self, norms: Tensor) -> Tensor:
        return ~(norms.isfinite() & (norms <= self._limits)).all()

    def _before_move(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._norms is None:
            norms = [_norm(_gradients(self._optimizers[player]), self._device) for player in self._players]
            self._norms = torch.stack(norms)
        blocked = self._blocks(self._norms)
        if optimizer.defaults.get("fused") and isinstance(optimizer, torch.optim.Adam):
            # torch's own switch, made for loss scaling: fused Adam reads it on the device and stays put. (Fused SGD
            # reads it, too, but goes on from uninitialised momentum when its very first step was blocked.)
            optimizer.found_inf = blocked.float()  # type: ignore[attr-defined]
        elif blocked:
            # Without that switch the answer has to be waited for; an optimiser without gradients does nothing.
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    """Euclidean norm over all elements, float32, 0-dim; NaN or infinite where one element is."""
    if not gradients:
        return torch.zeros((), device=device)
    get_total_norm: Callable[[list[Tensor]], Tensor] = torch.nn.utils.get_total_norm
    return get_total_norm(gradients).float()
