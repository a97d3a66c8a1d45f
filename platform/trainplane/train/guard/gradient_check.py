"""Checks gradient norms of every step and blocks bad steps.

Each optimiser gets a hook before its step. The first hook of a step, after the sum over ranks, measures one norm per
player, and shortens gradients beyond `train.clip_norm`. Where one is not finite or above its limit, all optimisers
leave weights, moments and step counts as they are. The device decides, so nothing waits; observations are read when
metrics are recorded. Gradients are equal on all ranks, so all ranks block and shorten alike.
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


class GradientCheck:
    """Checks one task's optimisers between `start` and `finish`."""

    def __init__(self, task: Task, *, world: World, clip_norm: float | None = None) -> None:
        self._world = world
        self._clip_norm = clip_norm
        self._device = task.device
        self._optimizers = task.optimizers()
        self._players = sorted(self._optimizers)
        self._limits = torch.full((len(self._players),), math.inf, device=self._device)
        # Norms of the current step, one per player; None until its first hook.
        self._norms: Tensor | None = None
        # (index, row on the device) of steps that were not read yet.
        self._pending: list[tuple[int, Tensor]] = []
        for optimizer in self._optimizers.values():
            optimizer.register_step_pre_hook(self._before_step)

    def set_limits(self, limits: Mapping[str, float]) -> None:
        """Sets the largest norm of each player; default: no limit."""
        values = [limits.get(player, math.inf) for player in self._players]
        self._limits = torch.tensor(values, device=self._device)

    def start(self) -> None:
        """Starts a step: its norms are not measured yet."""
        self._norms = None

    def finish(self, index: int, shares: Mapping[str, Tensor]) -> None:
        """Queues the observation of step `index` (from 0); never waits."""
        norms = self._norms if self._norms is not None else torch.zeros(len(self._players), device=self._device)
        metrics = [value.detach().float() for value in shares.values()]
        is_bad_loss = ~torch.stack(metrics).isfinite().all() if metrics else torch.zeros((), device=self._device)
        # One row of float64: the norms, then the flags "blocked" and "a loss is not finite".
        row = torch.cat([norms.double(), self._blocks(norms)[None].double(), is_bad_loss[None].double()])
        self._pending.append((index, row))

    def observe(self) -> list[Observation]:
        """Observations since the last call; waits for the device."""
        if not self._pending:
            return []
        indices = [index for index, _ in self._pending]
        rows = torch.stack([row for _, row in self._pending])
        self._pending = []
        # Losses differ by rank: a loss that is not finite on one rank counts for all.
        bad_losses = rows[:, -1].contiguous()
        self._world.sum_([bad_losses])
        observations = []
        for index, (*norms, blocked, _), num_bad in zip(indices, rows.tolist(), bad_losses.tolist(), strict=True):
            by_player = {
                player: norm if math.isfinite(norm) else None for player, norm in zip(self._players, norms, strict=True)
            }
            observations.append(Observation(index, by_player, bool(blocked), num_bad == 0))
        return observations

    def _blocks(self, norms: Tensor) -> Tensor:
        # Flag on the device: a norm is bad. Bad means not finite, or above its limit.
        return ~(norms.isfinite() & (norms <= self._limits)).all()

    def _clip(self, norms: Tensor, longest: float) -> None:
        # On the device, so nothing waits. Gradients are sums over ranks, so all ranks scale alike.
        factors = (longest / norms).clamp(max=1.0)
        for player, factor in zip(self._players, factors, strict=True):
            if gradients := _gradients(self._optimizers[player]):
                torch._foreach_mul_(gradients, factor)

    def _before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        # The first hook of the step measures all players.
        if self._norms is None:
            norms = [_norm(_gradients(self._optimizers[player]), self._device) for player in self._players]
            self._norms = torch.stack(norms)
            if self._clip_norm is not None:
                self._clip(self._norms, self._clip_norm)
        blocked = self._blocks(self._norms)
        if optimizer.defaults.get("fused") and isinstance(optimizer, torch.optim.Adam):
            # torch's own switch for loss scaling: fused Adam reads it on the device and then changes nothing. (Fused
            # SGD reads it, too, but continues with uninitialised momentum if its very first step was blocked.)
            optimizer.found_inf = blocked.float()  # type: ignore[attr-defined]
        elif blocked:
            # Other optimisers have no such switch, so wait for the answer. Without gradients they change nothing.
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _norm(gradients: list[Tensor], device: torch.device) -> Tensor:
    # Euclidean norm over all elements, float32, 0-dim. NaN or infinite where one element is.
    if not gradients:
        return torch.zeros((), device=device)
    get_total_norm: Callable[[list[Tensor]], Tensor] = torch.nn.utils.get_total_norm
    return get_total_norm(gradients).float()
