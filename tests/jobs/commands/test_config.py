"""`isnet config show`: every setting is there with its value and where it comes from, and the page says the same."""

from pathlib import Path

import pytest

from jobs.commands.config import reference
from jobs.config import ISNetConfig, load_run_config
from jobs.presets import preset_names
from trainplane.config.canonical import flatten
from trainplane.config.schema import settings
from trainplane.search.config import SearchFile

ROOT = Path(__file__).resolve().parents[3]


def test_the_page_of_settings_is_what_the_code_declares():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == reference(), "run `isnet config show --markdown > docs/settings.md`"


def test_every_setting_has_a_meaning():
    assert not [
        setting.name for schema in (ISNetConfig, SearchFile) for setting in settings(schema) if not setting.meaning
    ]


def rows_of(isnet, *words):
    return {row["name"]: row for row in isnet("config", "show", *words, "--json").json()["settings"]}


def test_a_value_comes_with_its_source(isnet):
    rows = rows_of(isnet, "celeba+laptop", "train.seed=7", "data.train=2024")
    assert {
        name: (rows[name]["value"], rows[name]["source"])
        for name in (
            "train.seed",
            "data.train",
            "data.size",
            "data.flip",
            "tracking.register_as",
            "loss.l1_mode",
            "name",
            "train.lr_g",
        )
    } == {
        "train.seed": (7, "override"),
        "data.train": ("2024", "override"),
        "data.size": (64, "laptop"),
        "data.flip": (True, "places2"),
        "tracking.register_as": (None, "laptop"),
        "loss.l1_mode": ("hole_ratio", "default"),
        "name": ("celeba-laptop", "laptop"),
        "train.lr_g": (1e-4, "places2"),
    }
    assert rows["data.size"]["unit"] == "px"
    assert rows["train.steps"]["type"] == "whole number ≥ 1"


@pytest.mark.parametrize("preset", ["demo", "places2+laptop"])
def test_the_values_are_those_that_a_run_gets(isnet, preset):
    # A table without entries has no dotted names.
    shown = {name: row["value"] for name, row in rows_of(isnet, preset).items() if row["value"] != {}}
    values = flatten(load_run_config(preset, []).model_dump(mode="json"))
    assert {name: value for name, value in values.items() if name in shown} == shown
    assert {*shown, "guard.balance", "data.mix", "data.val_sets", "train.rate_factors"} == {
        setting.name for setting in settings(ISNetConfig)
    }


def test_a_search_shows_its_own_settings_and_those_of_its_trials(isnet):
    rows = rows_of(isnet, "search_demo", "search.trials=9", "train.seed=3")
    assert (rows["search.trials"]["value"], rows["search.trials"]["source"]) == (9, "override")
    assert (rows["search.algorithm"]["value"], rows["search.algorithm"]["source"]) == ("random", "search_demo")
    assert (rows["train.steps"]["value"], rows["train.steps"]["source"]) == (60, "search_demo")
    assert (rows["train.lr_g"]["source"], rows["train.seed"]["source"]) == ("demo", "override")


def test_without_a_preset_all_of_them_are_listed_with_what_they_are_for(isnet):
    listed = isnet("config", "show", "--json").json()
    assert {row["name"]: row["command"] for row in listed["presets"]} == {
        name: "tune" if name.startswith("search_") else "train" for name in preset_names()
    }
    assert [row["name"] for row in listed["layers"]] == ["laptop"]
    for row in (*listed["presets"], *listed["layers"]):
        assert 20 < len(row["meaning"]) < 200
        assert row["meaning"].endswith(".")
    text = isnet("config", "show").out
    assert all(f"  {name} " in text for name in preset_names())


def test_a_setting_is_explained_beside_its_value(isnet):
    text = isnet("config", "show", "demo").out
    assert "data.size" in text
    assert "64 px" in text
    assert "side of the training crop" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["dmeo"], "did you mean 'demo'"),
        (["demo", "train.stpes=3"], "did you mean train.steps=3?"),
        (["train.steps=3"], "write the preset first: demo train.steps=3"),
        (["demo", "--markdown"], "leave the preset out"),
    ],
)
def test_a_mistake_is_that_of_a_training(isnet, words, sentence):
    ran = isnet("config", "show", *words)
    assert (ran.status, ran.out) == (2, "")
    assert sentence in ran.err
