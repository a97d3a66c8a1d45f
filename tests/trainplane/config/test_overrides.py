"""Overrides are read by the type of their setting: names stay names, numbers are decimal."""

import pytest
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.config.overrides import apply_overrides
from trainplane.errors import UserError

TREE = {"name": "t", "data": {"train": "a"}, "train": {"steps": 4, "global_batch": 4}}


def build_with(*overrides):
    return build(TinyConfig, apply_overrides(TREE, list(overrides), TinyConfig))


@pytest.mark.parametrize(
    "name", ["2024", "0100", "1e5", "no", "true", "2024-01-01", "12:30", "[x]", "a: b", "#1", "null", "x #y", "{", "-5"]
)
def test_a_dataset_may_have_any_name(name):
    assert build_with(f"data.train={name}").data.train == name


@pytest.mark.parametrize("text", ["null", "~", "", "NULL"])
def test_null_takes_an_optional_name_away_and_quotes_make_it_a_name(text):
    assert build_with(f"data.val={text}").data.val is None
    assert build_with(f'data.val="{text}"').data.val == text
    assert build_with(f"data.val='{text}'").data.val == text


def test_numbers_are_decimal():
    train = build_with("train.steps=0100", "train.seed=007", "train.lr_g=1e-3", "train.global_batch=1_000").train
    assert (train.steps, train.seed, train.lr_g, train.global_batch) == (100, 7, 1e-3, 1000)


def test_an_entry_of_a_table_is_an_override_too():
    assert build_with("guard.balance.d=[0, 2]").guard.balance == {"d": (0.0, 2.0)}


def test_without_a_schema_every_value_is_yaml():
    assert apply_overrides({}, ["a.b=7", "a.c=no", "d=[1, 1e1]"]) == {"a": {"b": 7, "c": "no"}, "d": [1, 10.0]}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["train.steps", "5"], "did you mean train.steps=5?"),
        (["train.steps", "=", "5"], "did you mean train.steps=5?"),
        (["=", "5"], "without spaces"),
        (["+small"], "a layer is joined to the preset's name: PRESET+small"),
        (["more"], "need section.key=value"),
    ],
)
def test_a_word_that_sets_nothing_is_answered_with_what_it_should_be(words, sentence):
    with pytest.raises(UserError) as refusal:
        build_with(*words)
    assert sentence in str(refusal.value)
