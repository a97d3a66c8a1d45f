"""Decides which samples of a dataset join another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trainplane.data.grow.contents import Contents
from trainplane.data.grow.inheritance import Mask
from trainplane.data.manifest import SkippedFile


@dataclass(frozen=True)
class Apart:
    """Dataset none of whose samples may join."""

    name: str
    contents: Contents


@dataclass(frozen=True)
class Joining:
    """Places of a dataset's samples in a merge."""

    shared: Mask  # bool (samples,): stay in their shards
    renamed: tuple[int, ...]  # stored anew, since another sample has their key
    skipped: tuple[SkippedFile, ...]  # the others, with reasons


def joining(base: Contents, other: Contents, apart: Sequence[Apart]) -> Joining:
    """Sorts the samples of `other` that join `base`."""
    shared = np.ones(other.dataset.num_samples, dtype=np.bool_)
    skipped, renamed = [], []
    reason_of = _reasons(base, other, apart)
    for sample in range(other.dataset.num_samples):
        key = other.dataset.index.key_of(sample)
        if reason := reason_of(sample):
            skipped.append(SkippedFile(key, reason))
            shared[sample] = False
        elif base.has_key(key):
            renamed.append(sample)
            shared[sample] = False
    return Joining(shared, tuple(renamed), tuple(skipped))


def _reasons(base: Contents, other: Contents, apart: Sequence[Apart]) -> Callable[[int], str]:
    owners = [(base, "duplicate: the same content as {}"), *((each.contents, held_out(each.name)) for each in apart)]
    # Length and checksum of most samples are nobody else's, so few are read.
    suspects = [np.isin(other.codes, contents.codes) for contents, _ in owners]

    def reason(sample: int) -> str:
        for (contents, text), is_suspect in zip(owners, suspects, strict=True):
            if is_suspect[sample] and (twin := contents.find_sample(other, sample)) is not None:
                return text.format(contents.dataset.index.key_of(twin))
        return ""

    return reason


def held_out(name: str) -> str:
    """Reason of a sample that another dataset keeps for itself."""
    return f"kept apart: {name} has it as {{}}"
