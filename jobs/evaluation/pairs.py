"""Pairs of held-out pictures and holes for an evaluation.

The list is the same for every model, identified by its digest and stored under it. With a mask dataset each picture
gets one mask, drawn without replacement from a seeded permutation of all masks (another one for each round). With a
generator each picture gets one hole of each ratio bin.
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

# Part of the digest: a change makes all earlier lists different.
FORMAT = 2


@dataclass(frozen=True)
class Pairing:
    """List of pairs."""

    dataset_digest: str  # of the pictures
    masks: str
    size: int
    seed: int
    loading: Loading
    pairs: tuple[tuple[int, int], ...]  # numbers of picture and hole

    def to_json(self) -> bytes:
        """Returns canonical JSON, the digest's input."""
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
        """Sha256 of the list."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def save(self, store: Store) -> str:
        """Stores the list, once, and returns its key."""
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
    """Pairs the pictures of a dataset with holes.

    Args:
        dataset: held-out pictures.
        masks: name of a generator; ignored with a mask dataset.
        mask_set: mask dataset; None for a generator.
        size: side of pictures and holes, pixels.
        seed: of the permutations, or of the generator.
        loading: how mask files are resized.
        pictures: number of pictures, taken evenly over the dataset; None takes all.
    """
    indices = _spread(dataset.num_samples, pictures)
    if mask_set is None:
        # Hole numbers modulo `num_bins` give the bin.
        num_bins = len(RATIO_BINS)
        pairs = [(index, index * num_bins + bin) for index in indices for bin in range(num_bins)]
        return Pairing(dataset.digest, masks, size, seed, loading, tuple(pairs))
    # Over all pictures, so that a picture gets the same mask when only some of them are measured.
    order = _without_replacement(dataset.num_samples, mask_set.num_samples, seed)
    pairs = [(index, order[index]) for index in indices]
    return Pairing(dataset.digest, mask_set.digest, size, seed, loading, tuple(pairs))


def _spread(count: int, limit: int | None) -> list[int]:
    """Takes `limit` numbers below `count` at equal distances."""
    if limit is None or limit >= count:
        return list(range(count))
    return [number * count // limit for number in range(limit)]


def _without_replacement(pictures: int, masks: int, seed: int) -> list[int]:
    # The numbers of times that two masks are used differ by one at most.
    # Rounded up: the last permutation is used in part.
    rounds = -(-pictures // masks)
    permutations = [
        np.random.Generator(np.random.Philox(key=[seed, turn])).permutation(masks) for turn in range(rounds)
    ]
    return [int(number) for number in np.concatenate(permutations)[:pictures]]
