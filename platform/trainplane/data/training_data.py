"""Opens the training data of a run: dataset or mixture.

By typed names where a run is prepared, by addresses and digests on its ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import MixedSet, Mixture, TrainingData
from trainplane.data.named import open_dataset
from trainplane.data.read.cache_dir import CacheConfig
from trainplane.errors import UserError

MixedAddress: TypeAlias = tuple[str, str, int]
"""Address and digest of a further dataset, and its places in a batch."""


def open_training_data(first: str, mix: Mapping[str, float], context: Context, *, global_batch: int) -> TrainingData:
    """Opens the datasets that a configuration names.

    Args:
        first: `data.train`.
        mix: Share of a batch by the name of each further dataset.
        context: Where datasets are.
        global_batch: Samples per global step.

    Raises:
        UserError: If one is not there, is there twice, or gets less than a sample of each batch.
    """
    return training_data(open_dataset(first, context), open_mix(mix, context), global_batch=global_batch)


def open_mix(mix: Mapping[str, float], context: Context) -> dict[str, tuple[Dataset, float]]:
    """Opens further training datasets; their shares stay beside them."""
    return {name: (open_dataset(name, context), share) for name, share in mix.items()}


def training_data(first: Dataset, further: Mapping[str, tuple[Dataset, float]], *, global_batch: int) -> TrainingData:
    """Returns the dataset itself, or the mixture with others."""
    return Mixture.of(first, further, global_batch=global_batch) if further else first


def addresses_of(data: TrainingData) -> tuple[str, str, list[MixedAddress]]:
    """Address and digest of the first dataset, and the others."""
    if isinstance(data, Dataset):
        return data.address, data.digest, []
    first, *others = data.sets
    mix = [(each.dataset.address, each.dataset.digest, each.places) for each in others]
    return first.dataset.address, first.dataset.digest, mix


def reopen_training_data(
    addresses: tuple[str, str | None, Sequence[MixedAddress]], *, global_batch: int, cache: CacheConfig | None = None
) -> TrainingData:
    """Opens what `addresses_of` named, each with its digest."""
    address, digest, mix = addresses
    first = Dataset.open(address, cache=cache, expected_digest=digest)
    if not mix:
        return first
    further = [
        MixedSet(Dataset.open(place, cache=cache, expected_digest=expected), places) for place, expected, places in mix
    ]
    rest = global_batch - sum(each.places for each in further)
    return Mixture((MixedSet(first, rest), *further))


def check_fills_batch(data: TrainingData, *, global_batch: int) -> None:
    """Raises `UserError` where a dataset has less than one batch."""
    if isinstance(data, Dataset):
        if data.num_samples < global_batch:
            raise UserError(
                f"dataset {data.name!r} has {data.num_samples} samples, fewer than one global batch of "
                f"{global_batch}; pack more samples, or set train.global_batch={data.num_samples}"
            )
        return
    for each in data.sets:
        if each.dataset.num_samples < each.places:
            raise UserError(
                f"dataset {each.dataset.name!r} has {each.dataset.num_samples} samples, fewer than its {each.places} "
                f"of each batch of {global_batch}; pack more samples, or give it a smaller share in data.mix"
            )
