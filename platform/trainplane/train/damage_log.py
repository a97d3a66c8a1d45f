"""Damaged samples that ranks replaced, over all attempts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from trainplane.data.damage import Damage
from trainplane.tracking.tracker import Recorder
from trainplane.train.world import World

# Tag of the run that tells how many samples were replaced.
DAMAGE_TAG = "trainplane.damage"
# Samples that a message names.
_NAMED = 3


class DamageLog:
    """Distinct damaged samples; the same on every rank after `collect`."""

    def __init__(self) -> None:
        self._samples: dict[tuple[str, str], Damage] = {}
        # Samples of this attempt's ranks together, at the last collection.
        self._num_seen = 0

    def __len__(self) -> int:
        return len(self._samples)

    def __str__(self) -> str:
        return f"{len(self)} damaged sample{'s were' if len(self) > 1 else ' was'} replaced"

    @property
    def samples(self) -> list[Damage]:
        """All samples, in the order in which they were collected."""
        return list(self._samples.values())

    def begin_attempt(self, stored: Iterable[Mapping[str, str]]) -> None:
        """Adds a checkpoint's samples; ranks count from zero again."""
        self._add(Damage(**sample) for sample in stored)
        self._num_seen = 0

    def to_json(self) -> list[dict[str, str]]:
        """Samples as a checkpoint stores them."""
        return [_to_json(sample) for sample in self._samples.values()]

    def collect(self, here: Sequence[Damage], *, world: World, device: torch.device) -> str | None:
        """Collects the damage of all ranks; called on all ranks.

        Args:
            here: Damage that this rank has met in this attempt.
            world: This rank.
            device: Device of the ranks' tensors.

        Returns:
            A message about samples that are new to the run, or None without any.
        """
        # Usually there is nothing new, and one number per rank is all that is exchanged.
        num_seen = torch.tensor([len(here)], dtype=torch.int64, device=device)
        world.sum_([num_seen])
        if int(num_seen) == self._num_seen:
            return None
        self._num_seen = int(num_seen)
        texts = world.gather(json.dumps([_to_json(sample) for sample in here]).encode(), device)
        by_rank = {rank: self._add(Damage(**item) for item in json.loads(text)) for rank, text in enumerate(texts)}
        return _message({rank: new for rank, new in by_rank.items() if new})

    def record(self, tracker: Recorder, *, step: int) -> None:
        """Records number and list of all samples."""
        tracker.set_tags({DAMAGE_TAG: str(self)})
        tracker.log_text("damage.json", json.dumps(self.to_json(), indent=1) + "\n")
        tracker.log_metrics(step, {"data/damaged": len(self)})

    def _add(self, samples: Iterable[Damage]) -> list[Damage]:
        """Adds samples; returns those that are new."""
        new = []
        for sample in samples:
            if (sample.shard, sample.key) not in self._samples:
                self._samples[sample.shard, sample.key] = sample
                new.append(sample)
        return new


def _message(new: Mapping[int, Sequence[Damage]]) -> str | None:
    if not new:
        return None
    samples = [sample for rank in new.values() for sample in rank]
    named = "; ".join(map(str, samples[:_NAMED]))
    more = f"; and {len(samples) - _NAMED} more" if len(samples) > _NAMED else ""
    ranks = f"rank{'s' if len(new) > 1 else ''} {', '.join(map(str, new))}"
    return f"damaged samples replaced by others on {ranks}: {named}{more}"


def _to_json(sample: Damage) -> dict[str, Any]:
    return {"shard": sample.shard, "key": sample.key, "kind": sample.kind, "detail": sample.detail}
