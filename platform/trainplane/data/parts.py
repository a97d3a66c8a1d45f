"""How some slots' part of a batch is made: visits, bytes, the task's transform, tensors stacked.

Runs alike in the loader's thread and in its worker processes. A failure that has a sentence is handed on as a value,
because it must cross processes whole. Not covered: who makes which slots, and what damage costs (loader.py).
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch

from trainplane.data.damage import UNDECODABLE, Damage, DamageError
from trainplane.data.fetch import Fetcher, Step
from trainplane.data.manifest import Dataset, Members
from trainplane.data.order import WINDOW, Order, sample_rng
from trainplane.errors import RunFailed, UserError
from trainplane.task import Batch, Transform

OnDamage: TypeAlias = Literal["fail", "quarantine"]

_SUBSTITUTES = 32  # tried for one place before the dataset is given up


@dataclass(frozen=True)
class Part:
    """Some slots' part of one step's batch, the damage met while making it, or why it could not be made."""

    batch: Batch
    damage: Sequence[Damage] = ()
    failure: RunFailed | UserError | None = None

    def pinned(self) -> Part:
        """The same in page-locked memory, which CUDA copies from without waiting; without CUDA, itself."""
        if not torch.cuda.is_available():
            return self
        return replace(self, batch={name: tensor.pin_memory() for name, tensor in self.batch.items()})


@dataclass(frozen=True)
class Feed:
    """Everything that parts are made from. Pickles, so that worker processes can be given it."""

    dataset: Dataset
    order: Order
    seed: int
    transform: Transform
    on_damage: OnDamage
    cache_bytes: int

    def parts(self, start: int, stop: int, slots: range) -> Generator[Part, None, None]:
        """One part for each global step start … stop - 1; a failure is the last one."""
        try:
            with Fetcher(self.dataset, cache_bytes=self.cache_bytes) as fetcher:
                walk = fetcher.walk(self._step(step, slots) for step in range(start, stop))
                for step, visited in enumerate(walk, start):
                    damage: list[Damage] = []
                    samples = [
                        self._tensors(step, slot, visit.sample, found, damage, fetcher)
                        for slot, (visit, found) in zip(slots, visited, strict=True)
                    ]
                    yield Part(_stacked(samples), damage)
        except (RunFailed, UserError) as failure:
            yield Part({}, failure=failure)

    def _step(self, step: int, slots: range) -> Step:
        epoch, within = self.order.position(step)
        windows_per_epoch = -(-self.order.steps_per_epoch // WINDOW)
        return epoch * windows_per_epoch + within // WINDOW, self.order.visits(step, slots)

    def _tensors(
        self, step: int, slot: int, sample: int, found: Members | Damage, damage: list[Damage], fetcher: Fetcher
    ) -> Batch:
        """The sample's tensors, or those of the first sound substitute; what was not sound is added to `damage`."""
        epoch, _ = self.order.position(step)
        for attempt in range(_SUBSTITUTES):
            made = found if isinstance(found, Damage) else self._decoded(sample, epoch, found)
            if not isinstance(made, Damage):
                return made
            damage.append(made)
            if self.on_damage == "fail":
                raise DamageError(
                    self.dataset.address,
                    damage,
                    "verify it, then repair it or pack again, or set data.on_damage=quarantine",
                )
            sample = self.order.substitute(step, slot, attempt=attempt)
            found = fetcher.read(sample)
        raise DamageError(self.dataset.address, damage, f"{_SUBSTITUTES} samples in a row cannot be used; pack again")

    def _decoded(self, sample: int, epoch: int, members: Members) -> Batch | Damage:
        try:
            return self.transform(members, sample_rng(seed=self.seed, epoch=epoch, sample=sample))
        except ValueError as error:
            index = self.dataset.index
            shard = self.dataset.shards[index.shard_of(sample)].name
            return Damage(shard, index.key_of(sample), UNDECODABLE, str(error))


def joined(parts: Sequence[Part]) -> Part:
    """One part of the slots of several, in their order; the first failure is its failure."""
    if len(parts) == 1:
        return parts[0]
    damage = [one for part in parts for one in part.damage]
    failure = next((part.failure for part in parts if part.failure is not None), None)
    if failure is not None:
        return Part({}, damage, failure)
    names = parts[0].batch
    return Part({name: torch.cat([part.batch[name] for part in parts]) for name in names}, damage)


def _stacked(samples: Sequence[Batch]) -> Batch:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
