"""Mutated files of a checkpoint whose digests are right: parsed, or refused as `ValueError` and nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
import safetensors.torch
import torch
from mutations import mutated

from trainplane.train.checkpoint.content import parse_object, parse_state, parse_tensors

SCALARS = {"counters": {"steps": 7}, "rates": [1e-4, True, None, "é"]}
FILES: list[tuple[Callable[[bytes], Any], bytes]] = [
    (parse_object, json.dumps({"files": {"state.json": {"bytes": 3, "sha256": "0" * 64}}}).encode()),
    (parse_state, json.dumps({"step": 7, "scalars": SCALARS, "meta": {"config": {"name": "x"}}}).encode()),
    (parse_tensors, safetensors.torch.save({"a": torch.ones(2, 3), "b": torch.zeros(5, dtype=torch.bfloat16)})),
]


def parsed(seed: int) -> bool:
    """False where the mutated file of a seed was refused."""
    rng = random.Random(seed)
    parse, whole = FILES[seed % len(FILES)]
    try:
        parse(mutated(rng, whole))
    except ValueError:
        return False
    except BaseException as error:
        raise AssertionError(f"seed {seed}: {type(error).__name__}: {error}") from error
    return True


# Seeds that once ended in another error than a sentence.
FOUND: list[int] = []


def test_some_mutated_files_are_refused() -> None:
    assert sum(parsed(seed) for seed in [*range(600), *FOUND]) < 300


@pytest.mark.nightly
def test_twenty_thousand_mutated_files_are_refused() -> None:
    assert sum(parsed(seed) for seed in range(20_000)) < 10_000
