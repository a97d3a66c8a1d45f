"""What the configuration accepts can be trained: it says the same as the networks, without importing them."""

import itertools
import re
import subprocess
import sys
from typing import get_args

import pytest
import torch

import isnet
from isnet.discriminator import MINIMUM_SIZE as DISCRIMINATOR_MINIMUM
from isnet.perceptual import LAYERS
from jobs.config import (
    MINIMUM_SIZE,
    SIZE_MULTIPLES,
    ISNetConfig,
    ModelConfig,
    VggLayer,
    load_isnet_config,
    load_run_config,
    meant_overrides,
)
from jobs.method_rules import RULES
from jobs.train.networks import generator_options
from trainplane.errors import UserError

# The paper's own; other methods have rules of theirs (jobs/method_rules.py).
GENERATORS = tuple(SIZE_MULTIPLES)


def test_the_configuration_knows_sizes_and_layers_of_the_networks():
    with torch.device("meta"):
        networks = {name: isnet.build(name, width=4, blocks=1) for name in GENERATORS}
    assert {name: network.size_multiple for name, network in networks.items()} == SIZE_MULTIPLES
    assert max(network.minimum_size for network in networks.values()) <= MINIMUM_SIZE
    assert DISCRIMINATOR_MINIMUM <= MINIMUM_SIZE
    assert get_args(VggLayer) == (*LAYERS, *(f"pool{block}" for block in range(1, 6)))
    assert set(get_args(ModelConfig.model_fields["name"].annotation)) == {*GENERATORS, *RULES}


@pytest.mark.parametrize("name", GENERATORS)
def test_a_size_is_accepted_if_the_network_takes_it(name):
    for size in range(32, 73):
        words = [f"model.name={name}", f"data.size={size}"]
        if size % SIZE_MULTIPLES[name] == 0:
            assert load_isnet_config("demo", words).data.size == size
            continue
        with pytest.raises(UserError) as refusal:
            load_run_config("demo", words)
        # The advice holds.
        for advised in re.search(r"set (data\.size=.*)", str(refusal.value))[1].split(" or "):
            load_run_config("demo", [words[0], advised if "=" in advised else f"data.size={advised}"])


def test_options_of_a_generator_are_accepted_if_it_can_be_built():
    for name, skips, prune in itertools.product(GENERATORS, (True, False), (True, False)):
        words = [f"model.name={name}", f"model.skips={skips}", f"model.prune={prune}", "model.width=4"]
        try:
            config = load_isnet_config("demo", words)
        except UserError:
            assert (skips and name != "unet_like") or (prune and name != "base")
            continue
        with torch.device("meta"):
            isnet.build(name, **generator_options(config))


def test_a_preset_may_train_another_model(tmp_path):
    file = tmp_path / "tiny.yaml"
    file.write_text("name: tiny\ntask: tiny_task:TinyTask\ndata: {train: a}\ntrain: {steps: 3, global_batch: 2}\n")
    config = load_run_config(str(file), ["train.lr_g=0.5", "data.train=2024"])
    assert not isinstance(config, ISNetConfig)
    assert (config.train.lr_g, config.data.train) == (0.5, "2024")
    with pytest.raises(UserError, match=r"unknown setting 'data\.size'"):
        load_run_config(str(file), ["data.size=64"])
    with pytest.raises(UserError, match="ISNet is needed here"):
        load_isnet_config(str(file), [])
    with pytest.raises(UserError, match=r"task 'no\.module:Task' cannot be imported"):
        load_run_config(str(file), ["task=no.module:Task"])


def test_another_model_is_planned_and_never_registered_as_isnet(isnet, photos, tmp_path):
    isnet("data", "pack", photos, "mine")
    file = tmp_path / "tiny.yaml"
    file.write_text("name: tiny\ntask: tiny_task:TinyTask\ndata: {train: mine}\ntrain: {steps: 3, global_batch: 2}\n")
    planned = isnet("plan", "train", file, "--json")
    assert planned.status == 0, planned.err
    assert any("are computed for ISNet alone" in finding["what"] for finding in planned.json()["findings"])
    refused = isnet("train", file, "tracking.register_as=tiny")
    assert refused.status == 2
    assert "only ISNet's models are registered" in refused.err
    assert isnet("runs", "list", "--json").json()["runs"] == []


def test_names_of_other_programs_are_answered_with_ours():
    assert meant_overrides("epochs", "3", of_search=False) == ["train.steps=… (whole number ≥ 1)"]
    assert meant_overrides("image-size", "64", of_search=False) == ["data.size=64"]
    assert meant_overrides("n_trials", "3", of_search=True) == ["search.trials=3"]
    assert meant_overrides("n_trials", "3", of_search=False) == []


def test_the_configuration_is_read_without_torch():
    code = "import sys; from jobs.config import load_run_config; load_run_config('places2+laptop', []); "
    code += "sys.exit(str({'torch', 'ray', 'mlflow', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "set()\n"
