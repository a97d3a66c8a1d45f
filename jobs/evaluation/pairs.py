"""Which held-out picture is measured with which hole: a fixed list, the same for every model, known by its digest.

A picture of a mask dataset gets one mask, drawn without replacement from a seeded permutation of all masks (a fresh
one each time round); with a generator every picture gets one hole of each ratio bin. The list is kept in the store
under its digest, written once. Not here: reading pictures and holes (scoring.py).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from isnet.mask_files import Loading
from isnet.masks import RATIO_BINS
from trainplane.config.canonical import canonical_json
from trainplane.data.manifest import Dataset
from trainplane.storage import Store

FORMAT = 2


@dataclass(frozen=True)
class Pairing:
    """The list. `masks`: a generator's name or the digest of a mask dataset; `pairs`: (picture, hole) numbers."""

    dataset_digest: str
    masks: str
    size: int
    seed: int
    loading: Loading
    pairs: tuple[tuple[int, int], ...]

    def to_json(self) -> bytes:
        """Canonical JSON, of which the digest is taken."""
        return canonical_json(
            {
                "format": FORMAT,
                "dataset_digest": self.dataset_digest,
                "masks": self.masks,
                "size": self.size,
                "seed": self.seed,
                "loading": self.loading,
                "pairs": self.pairs,
            }
        )

    @property
    def digest(self) -> str:
        """sha256 that tells one list of pictures and holes from another."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def keep(self, store: Store) -> str:
        """Put the list into the store, once; returns its key."""
        key = f"pairings/{self.digest}.json"
        store.create(key, self.to_json())
        return key


def pair_up(
    dataset: Dataset,
    *,
    masks: str,
    mask_set: Dataset | None,
    size: int,
    seed: int,
    loading: Loading = "nearest",
    pictures: int | None = None,
) -> Pairing:
    """The list for a dataset. `pictures`: measure this many only, drawn evenly over the dataset; None takes all."""
    chosen = _spread(dataset.num_samples, pictures)
    if mask_set is None:
        per_picture = len(RATIO_BINS)
        pairs = [(index, index * per_picture + number) for index in chosen for number in range(per_picture)]
        return Pairing(dataset.digest, masks, size, seed, loading, tuple(pairs))
    order = _without_replacement(dataset.num_samples, mask_set.num_samples, seed)
    pairs = [(index, order[index]) for index in chosen]
    return Pairing(dataset.digest, mask_set.digest, size, seed, loading, tuple(pairs))


def _spread(count: int, wanted: int | None) -> list[int]:
    if wanted is None or wanted >= count:
        return list(range(count))
    return [number * count // wanted for number in range(wanted)]


def _without_replacement(pictures: int, masks: int, seed: int) -> list[int]:
    """A mask for each picture: permutation after permutation, so that no mask is used once more than another."""
    rounds = -(-pictures // masks)
    permutations = [
        np.random.Generator(np.random.Philox(key=[seed, turn])).permutation(masks) for turn in range(rounds)
    ]
    return [int(number) for number in np.concatenate(permutations)[:pictures]]
