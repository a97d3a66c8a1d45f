"""Several training datasets that share each batch.

    mixture = Mixture.of(mine, {"places2": (places2, 0.2)}, global_batch=10)      # 8 and 2 of each batch

A share becomes a whole number of places in the batch, the same at every step. The digest stands for the datasets and
their places, so it does for a run what that of one dataset does. What trains takes either (`TrainingData`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from trainplane.config.canonical import canonical_json
from trainplane.data.manifest import Dataset
from trainplane.data.mixed_order import MixedOrder
from trainplane.errors import UserError


@dataclass(frozen=True)
class MixedSet:
    """Dataset of a mixture."""

    dataset: Dataset
    places: int  # in each global batch

    @property
    def label(self) -> str:
        """Name that no other dataset of a mixture has."""
        return f"{self.dataset.name}@{self.dataset.digest[:8]}"


@dataclass(frozen=True)
class Mixture:
    """Datasets of one training; the first one counts the epochs."""

    sets: tuple[MixedSet, ...]

    @classmethod
    def of(cls, first: Dataset, further: Mapping[str, tuple[Dataset, float]], *, global_batch: int) -> Mixture:
        """Divides a batch among datasets.

        Args:
            first: Gets the places that the others leave.
            further: Dataset and share of a batch, 0 to 1, by the name that was typed.
            global_batch: Samples per global step, over all ranks.

        Raises:
            UserError: If a dataset is there twice, or has less than one place.
        """
        places = places_of([share for _, share in further.values()], global_batch)
        _check_places(further, places, global_batch)
        # The order in which they were typed decides nothing.
        behind = sorted(
            (MixedSet(dataset, number) for (dataset, _), number in zip(further.values(), places[1:], strict=True)),
            key=lambda each: each.dataset.digest,
        )
        digests = [first.digest, *(each.dataset.digest for each in behind)]
        for name, (dataset, _) in further.items():
            if digests.count(dataset.digest) > 1:
                raise UserError(
                    f"data.mix names {name}, and another training dataset of this run has the same content (digest "
                    f"{dataset.digest[:12]}); name each dataset once, with one share"
                )
        return cls((MixedSet(first, places[0]), *behind))

    @cached_property
    def digest(self) -> str:
        """Sha256 over the datasets' digests and places."""
        parts = [[each.dataset.digest, each.places] for each in self.sets]
        return hashlib.sha256(canonical_json({"mix": parts})).hexdigest()

    @property
    def name(self) -> str:
        """Names of the datasets."""
        return " + ".join(each.dataset.name for each in self.sets)

    @property
    def address(self) -> str:
        """Addresses of the datasets."""
        return " + ".join(each.dataset.address for each in self.sets)

    @property
    def num_samples(self) -> int:
        """Samples of all datasets."""
        return sum(each.dataset.num_samples for each in self.sets)

    def order(self, *, seed: int, global_batch: int) -> MixedOrder:
        """Returns the sample order of a run."""
        assert global_batch == sum(each.places for each in self.sets), "places are of this batch"
        return MixedOrder([each.dataset.order(seed=seed, global_batch=each.places) for each in self.sets])

    def remedy(self, usual: str) -> str:
        """Advice for damage: `usual`, unless a dataset was replaced since."""
        return next((text for each in self.sets if (text := each.dataset.remedy(usual)) != usual), usual)


TrainingData: TypeAlias = Dataset | Mixture
"""What a run trains on."""


def datasets_of(data: TrainingData) -> tuple[Dataset, ...]:
    """Datasets of a training, the one that counts epochs first."""
    return tuple(each.dataset for each in data.sets) if isinstance(data, Mixture) else (data,)


def places_of(shares: Sequence[float], global_batch: int) -> list[int]:
    """Turns shares of a batch into whole places.

    Args:
        shares: Of the datasets behind the first one, which gets the rest; less than 1 in all.
        global_batch: Places in all.

    Returns:
        Places of the first dataset, then of the others; their sum is `global_batch`.
    """
    # The rest of a division by rounding down goes to those that lost most by it; of equal ones, to the first.
    exact = [share * global_batch for share in (1 - math.fsum(shares), *shares)]
    places = [math.floor(round(each, 6)) for each in exact]
    by_loss = sorted(range(len(exact)), key=lambda number: places[number] - exact[number])
    for number in by_loss[: global_batch - sum(places)]:
        places[number] += 1
    return places


def epoch_size(data: TrainingData) -> tuple[int, int]:
    """Samples and bytes that a run reads in one epoch."""
    if isinstance(data, Dataset):
        return data.num_samples, data.bytes
    first = data.sets[0]
    # Of less than a batch, which is refused elsewhere, one step.
    steps = max(1, first.dataset.num_samples // first.places)
    samples = steps * sum(each.places for each in data.sets)
    return samples, sum(steps * each.places * each.dataset.sample_bytes for each in data.sets)


def _check_places(further: Mapping[str, tuple[Dataset, float]], places: Sequence[int], global_batch: int) -> None:
    for name, number, (_, share) in zip(further, places[1:], further.values(), strict=True):
        if number == 0:
            raise UserError(
                f"data.mix gives {name} {share:g} of each batch, less than one of {global_batch} samples; give it "
                f"{1 / global_batch:.3g} or more, or set train.global_batch={math.ceil(1 / share)} or more"
            )
    if places[0] == 0:
        raise UserError(
            f"data.mix leaves data.train less than one of {global_batch} samples of each batch; give the others less, "
            "or raise train.global_batch"
        )
