"""Every shipped preset loads, is as large as the paper says where it says so, and shrinks under `+laptop`."""

import re
from dataclasses import fields

import pytest
import torch

import isnet
from isnet.gan import GanSettings
from isnet.losses import LossWeights
from jobs.config import load_run_config
from jobs.presets import LAYERS, PRESETS, layer_names, preset_names, preset_tree
from jobs.search.spec import load_search
from jobs.train.networks import gan_settings, generator_options
from trainplane.errors import UserError
from trainplane.search.space import Space

SEARCHES = preset_names("search_")
RUNS = [name for name in preset_names() if name not in SEARCHES]
# Tables 1 and 2 (ISNET.md): exact counts of the generators.
COUNTS = {
    "places2": 24_774_307,
    "celeba": 24_774_307,
    "ablation_isnet_4": 24_774_307,
    "ablation_isnet_3": 23_152_291,
    "ablation_isnet_2": 21_530_275,
    "ablation_isnet_1": 19_908_259,
    "ablation_base": 16_516_995,
    "ablation_base_ff": 14_610_083,
    "ablation_unet_like": 24_403_715,
}


def parameters(config):
    with torch.device("meta"):
        network = isnet.build(config.model.name, **generator_options(config))
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", RUNS)
def test_a_preset_loads_and_is_called_as_its_file(name):
    assert load_run_config(name, []).name == name.replace("_", "-")


@pytest.mark.parametrize("name", COUNTS)
def test_a_preset_has_the_papers_number_of_parameters(name):
    assert parameters(load_run_config(name, [])) == COUNTS[name]


@pytest.mark.parametrize("name", [name for name in COUNTS if name.startswith("ablation_")])
def test_what_an_ablations_comment_claims_is_so(name):
    """The paper prints counts divided by 2^20, cut or rounded to two places."""
    claimed = re.search(r"(\d+\.\d+) M parameters", (PRESETS / f"{name}.yaml").read_text())
    assert claimed is not None
    assert parameters(load_run_config(name, [])) / 2**20 == pytest.approx(float(claimed[1]), abs=0.01)


def test_the_seven_ablations_differ_from_places2_in_the_model_alone():
    base = load_run_config("places2", [])
    rows = [name for name in RUNS if name.startswith("ablation_")]
    assert len(rows) == 7
    for name in rows:
        config = load_run_config(name, [])
        assert (config.data, config.loss, config.train) == (base.data, base.loss, base.train), name
        assert config.tracking.register_as is None
    assert len({load_run_config(name, []).model for name in rows}) == 7


@pytest.mark.parametrize("name", RUNS)
def test_laptop_shrinks_any_preset_and_keeps_what_it_compares(name):
    full, small = load_run_config(name, []), load_run_config(f"{name}+laptop", [])
    assert small.name == f"{full.name}-laptop"
    assert (small.model.name, small.model.blocks, small.loss.style) == (
        full.model.name,
        full.model.blocks,
        full.loss.style,
    )
    assert small.train.steps < full.train.steps
    assert small.train.global_batch <= full.train.global_batch
    assert small.data.size <= full.data.size
    assert small.train.max_workers == 1
    assert parameters(small) <= parameters(full)
    assert parameters(small) < 2_000_000
    assert small.tracking.register_as is None
    assert small.loss.perceptual_weights == "random"


@pytest.mark.parametrize("name", SEARCHES)
def test_a_shipped_search_loads_and_takes_a_layer_under_it(name):
    for preset in (name, f"{name}+laptop"):
        loaded = load_search(preset, [])
        space = Space.of(loaded.file.search, {})
        assert loaded.configure(0, space.random(0), 0).name == f"{loaded.file.name}-0000"
    assert loaded.base["data"]["size"] == 64
    assert loaded.base["model"]["discriminator_width"] == 16


def test_every_value_of_a_preset_or_a_layer_is_a_setting_that_exists_and_files_name_their_reasons():
    for file in [*PRESETS.glob("*.yaml"), *LAYERS.glob("*.yaml")]:
        assert file.read_text().startswith("# "), file
    assert layer_names() == ["laptop"]


def test_overrides_go_on_top_of_layers(tmp_path):
    mine = tmp_path / "my+own.yaml"
    mine.write_text("base: ablation_base\nname: mine\ntrain: {steps: 99}\n")
    assert load_run_config(str(mine), []).train.steps == 99
    assert load_run_config(str(mine), []).model.name == "base"
    assert load_run_config("places2+laptop", ["train.steps=7"]).train.steps == 7
    file = tmp_path / "mine.yaml"
    file.write_text(mine.read_text())
    assert load_run_config(f"{file}+laptop", []).train.steps == 60


@pytest.mark.parametrize(
    ("preset", "words"),
    [
        ("places2+latpop", "did you mean 'laptop'?"),
        ("+laptop", "write a preset before it: demo+laptop"),
        ("laptop", "goes on top of a preset; try demo+laptop"),
        ("palces2+laptop", "did you mean 'places2'"),
        ("search_demo+laptop", "isnet tune search_demo+laptop"),
    ],
)
def test_a_wrong_layer_is_answered_in_a_sentence(preset, words):
    with pytest.raises(UserError) as refusal:
        load_run_config(preset, [])
    assert words in str(refusal.value)


def test_a_preset_that_is_its_own_base_is_refused(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text(f"base: {file}\n")
    with pytest.raises(UserError, match="its own base"):
        preset_tree(str(file))


def test_every_setting_of_the_training_step_comes_from_a_section_of_the_configuration():
    config = load_run_config("demo", ["loss.style=7", "train.lr_d=3.0e-5", "train.betas=[0.1, 0.2]"])
    weights, settings = ({field.name for field in fields(kind)} for kind in (LossWeights, GanSettings))
    assert weights | settings - {"loss"} <= set(type(config.loss).model_fields) | set(type(config.train).model_fields)
    step = gan_settings(config)
    assert (step.loss.style, step.lr_d, step.betas, step.ema) == (7, 3e-5, (0.1, 0.2), config.train.ema)


def test_a_wrong_name_is_answered_with_those_of_its_kind():
    with pytest.raises(UserError, match="no preset 'nosuch'; known: ") as run:
        load_run_config("nosuch", [])
    with pytest.raises(UserError, match="no preset 'nosuch'; known: search_") as search:
        load_search("nosuch", [])
    assert "search_" not in str(run.value)
    assert "celeba" not in str(search.value)
    with pytest.raises(UserError, match="did you mean 'search_demo'"):
        load_search("serch_demo", [])
    with pytest.raises(UserError, match="write the preset first: search_demo train"):
        load_search("train.threads=1", [])
