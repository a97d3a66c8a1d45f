"""How some slots' part of a batch is made: visits, bytes, the task's transform, tensors laid into their rows.

Runs alike in the loader's thread and in its worker processes. A failure that has a sentence is handed on as a value,
because it must cross processes whole. Not covered: who makes which slots, and what damage costs (loader.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from trainplane.data.damage import Damage, DamageError
from trainplane.data.load.buffers import Layout, Shelf, lay
from trainplane.data.manifest import Dataset, Members, undecodable
from trainplane.data.order import Order, sample_rng
from trainplane.data.read.fetch import Fetcher
from trainplane.data.types import Batch, Transform
from trainplane.errors import RunFailed, UserError

OnDamage: TypeAlias = Literal["fail", "quarantine"]

Room: TypeAlias = Callable[[Layout], Batch]
"""Gives memory for the next part of this layout."""

_SUBSTITUTES = 32  # tried for one place before the dataset is given up


@dataclass(frozen=True)
class Part:
    """Some slots' part of one step's batch, the damage met while making it, or why it could not be made."""

    batch: Batch
    damage: Sequence[Damage] = ()
    failure: RunFailed | UserError | None = None


@dataclass(frozen=True)
class Feed:
    """Everything that parts are made from. Pickles, so that worker processes can be given it."""

    dataset: Dataset
    order: Order
    seed: int
    transform: Transform
    on_damage: OnDamage
    cache_bytes: int

    def parts(self, start: int, stop: int, slots: range, *, room: Room | None = None) -> Generator[Part, None, None]:
        """One part for each global step start … stop - 1, in its own memory or that of `room`; a failure is the last.

        The next part is begun when it is asked for, not before.
        """
        shelf = Shelf()
        try:
            with Fetcher(self.dataset, cache_bytes=self.cache_bytes) as fetcher:
                steps = ((step, self.order.visits(step, slots)) for step in range(start, stop))
                walk = fetcher.walk(steps, met=self.order.met_before(start, slots))
                for step, visited in enumerate(walk, start):
                    damage: list[Damage] = []
                    layout, batch = None, {}
                    for row, (slot, (visit, found)) in enumerate(zip(slots, visited, strict=True)):
                        sample = self._tensors(step, slot, visit.sample, found, damage, fetcher)
                        if layout is None:
                            layout = Layout.of(sample)
                            batch = room(layout) if room else shelf.room(layout, len(slots))
                        lay(sample, layout, batch, row)
                    yield Part(batch, damage)
        except (RunFailed, UserError) as failure:
            yield Part({}, failure=failure)

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
                usual = "verify it, then repair it or pack again, or set data.on_damage=quarantine"
                raise DamageError(self.dataset.address, damage, self.dataset.remedy(usual))
            sample = self.order.substitute(step, slot, attempt=attempt)
            found = fetcher.read(sample)
        usual = f"{_SUBSTITUTES} samples in a row cannot be used; pack again"
        raise DamageError(self.dataset.address, damage, self.dataset.remedy(usual))

    def _decoded(self, sample: int, epoch: int, members: Members) -> Batch | Damage:
        try:
            return self.transform(members, sample_rng(seed=self.seed, epoch=epoch, sample=sample))
        except UserError:
            raise  # about something else: another mask dataset stands there by now, for one
        except ValueError as error:
            return undecodable(self.dataset, sample, error)
