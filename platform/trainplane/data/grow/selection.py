"""Selects samples of a dataset by key or by share.

A share is a pure function of the key: the same photos are chosen after the dataset has grown, and more with it.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Iterator

import numpy as np

from trainplane.data.grow.inheritance import Mask
from trainplane.data.manifest import Dataset
from trainplane.data.pack.shard_builder import KEY_HASH, key_of
from trainplane.errors import UserError

_RANGE = 2**64
_NAMED = 3  # keys in a message


def keys_of(dataset: Dataset) -> Iterator[str]:
    """Yields the keys of a dataset's samples in their order."""
    return (dataset.index.key_of(sample) for sample in range(dataset.num_samples))


def samples_named(dataset: Dataset, names: Iterable[str]) -> Mask:
    """Selects samples by keys, or by their original paths.

    Returns:
        bool (samples,).

    Raises:
        UserError: If a name is none of the dataset's; it names the nearest ones.
    """
    number_of = {key: number for number, key in enumerate(keys_of(dataset))}
    mask = np.zeros(dataset.num_samples, dtype=np.bool_)
    unknown = []
    for name in names:
        number = number_of.get(name, number_of.get(key_of(name)))
        if number is None:
            unknown.append(name)
        else:
            mask[number] = True
    if unknown:
        raise UserError(_unknown(dataset, unknown, list(number_of)))
    return mask


def sample_share(dataset: Dataset, fraction: float, *, seed: int = 0) -> Mask:
    """Selects about this share of the samples, by their keys.

    Args:
        dataset: Dataset to choose from.
        fraction: Above 0, up to 1.
        seed: Another one chooses others.

    Returns:
        bool (samples,).
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a share of {fraction:g} of a dataset; need more than 0 and at most 1, such as 0.1")
    draws = [int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:8], "big") for key in keys_of(dataset)]
    mask = np.array([draw < fraction * _RANGE for draw in draws], dtype=np.bool_)
    if not mask.any():
        # A dataset has a sample, however small the share.
        mask[int(np.argmin(np.array(draws, dtype=np.uint64)))] = True
    return mask


def _unknown(dataset: Dataset, unknown: list[str], keys: list[str]) -> str:
    texts = []
    # What follows the last dash of a key is a hash, which nobody mistypes by a letter.
    stems = {key[: -KEY_HASH - 1]: key for key in keys}
    for name in unknown[:_NAMED]:
        stem = key_of(name)[: -KEY_HASH - 1]
        near = [stems[text] for text in difflib.get_close_matches(stem, stems, n=2, cutoff=0.5)]
        texts.append(f"{name!r} (the nearest: {', '.join(near)})" if near else repr(name))
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return (
        f"{dataset.name} lacks {len(unknown)} of the keys in the list: {', '.join(texts)}{more}; "
        "need keys of its samples, or the paths that they were packed from, one on each line"
    )
