"""Run keys and digests of the shipped presets are those that an earlier release recorded.

A run is found again by its key: a key that changes would make users' half-trained runs start over. The values in
`recorded_keys.json` were written by commit d1d4bfd. A preset that changes on purpose gets new values there.
"""

import hashlib
import json
from pathlib import Path

import pytest

from jobs.config import load_run_config
from jobs.presets import preset_names
from trainplane.config.canonical import canonical_json
from trainplane.train.run_key import run_key

TRAIN_DIGEST, VAL_DIGEST = "ab" * 32, "cd" * 32
RECORDED = json.loads((Path(__file__).parent / "recorded_keys.json").read_text())


def sha256(value):
    return hashlib.sha256(canonical_json(value)).hexdigest()


@pytest.mark.parametrize("command", RECORDED)
def test_a_preset_has_the_run_key_that_was_recorded(command):
    preset, *overrides = command.split("  ")
    config = load_run_config(preset, overrides)
    assert {
        "run_key": run_key(config, TRAIN_DIGEST, VAL_DIGEST),
        "digest": config.digest(),
        "identity": sha256(config.identity()),
        "special": sha256(config.special()),
    } == RECORDED[command]


def test_every_preset_is_recorded_with_and_without_the_laptop_layer():
    runs = set(preset_names()) - set(preset_names("search_"))
    assert runs
    assert {f"{name}{layer}" for name in runs for layer in ("", "+laptop")} <= set(RECORDED)
