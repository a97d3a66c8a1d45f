"""Configuration: accepted values, and refusals that name the field and the remedy."""

import pytest
from tiny_task import TinyConfig

from trainplane.config import safe_yaml
from trainplane.config.canonical import canonical_json
from trainplane.config.load import build, read_yaml
from trainplane.config.overrides import apply_overrides
from trainplane.errors import UserError
from trainplane.search.config import SearchFile

TREE = {"name": "t", "data": {"train": "a"}, "train": {"steps": 4, "global_batch": 4}}


def build_with(*overrides):
    return build(TinyConfig, apply_overrides(TREE, list(overrides), TinyConfig))


def test_overrides_are_read_as_yaml_and_numbers_as_people_write_them():
    config = build_with("train.lr_g=1e-4", "train.betas=[0.5, 0.99]", "data.val=null", "tracking.require=true")
    assert config.train.lr_g == 1e-4
    assert config.train.betas == (0.5, 0.99)
    assert config.data.val is None
    assert config.tracking.require is True


def test_numbers_in_a_file_may_be_written_without_a_point():
    assert build(TinyConfig, {**TREE, "train": {**TREE["train"], "lr_g": "2e-3"}}).train.lr_g == 2e-3


def test_the_tree_under_overrides_is_not_changed():
    before = canonical_json(TREE)
    build_with("train.steps=9", "data.val=b")
    assert canonical_json(TREE) == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stesp=5", ["train.stesp", "did you mean train.steps=5?"]),
        ("trian.steps=5", ["trian", "did you mean train.steps=5?"]),
        ("train.steps=0", ["train.steps=0: need a whole number ≥ 1; give train.steps=… accordingly"]),
        ("train.steps=abc", ["train.steps='abc'", "need a whole number ≥ 1"]),
        ("train.seed=100000000000000000000", ["train.seed=100000000000000000000", "whole number ≥ 0 and < 2^63"]),
        ("train.workers=9", ["global_batch=4", "workers=9", "train.global_batch=9"]),
        ("train.workers=3", ["global_batch=4", "workers=3", "train.global_batch=3 or 6"]),
        ("train.micro_batch=3", ["micro_batch=3", "share of 4", "divisor of 4"]),
        ("train.lr_g=.nan", ["train.lr_g", "finite"]),
        ("train.workers=[3,3]", ["train.workers=3", "train.global_batch=3 or 6"]),
        ("train.workers=[2,1]", ["begins above its end", "write [1, 2]"]),
        ("train.workers=some", ["train.workers='some'", "need a whole number ≥ 1 or [whole number ≥ 1, "]),
        ("train.micro_batch=large", ["train.micro_batch='large'", "or auto"]),
        ("train.checkpoint_every=soon", ["train.checkpoint_every='soon' is no cadence", "90s"]),
        ("guard.non_finite=ignore", ["guard.non_finite='ignore'", "need skip, lower_rate, roll_back or stop"]),
        ("guard.norm_facto=3", ["guard.norm_facto", "did you mean guard.norm_factor=3?"]),
        ("data.on_damage=ignore", ["data.on_damage='ignore'", "fail or quarantine"]),
        ("data.cache_dir=cache", ["data.cache_dir='cache' is relative", "absolute folder"]),
        ("name=../up", ["name='../up'"]),
        ("train.steps", ["'train.steps' is no override", "section.key=value"]),
        ("train=5", ["train=5: train is a section; set one of its settings, as in train.NAME=…"]),
        ("tracking.require=ture", ["tracking.require='ture': need true or false; give"]),
        ("train.steps.more=5", ["'steps' is a value, not a section"]),
        ("train.lr_g={", ["no YAML"]),
        ("train.betas={b: 1, b: 2}", ["'b' stands twice in line 1"]),
        ("train.steps=", ["train.steps has no value"]),
        ("train.steps=true", ["train.steps=true is neither a number nor text"]),
        ("train.steps=2024-01-01", ["train.steps='2024-01-01'", "whole number"]),
        ("train.steps=12:30", ["train.steps='12:30'", "whole number"]),
    ],
)
def test_a_mistake_is_answered_with_field_and_remedy(override, words):
    with pytest.raises(UserError) as refusal:
        build_with(override)
    for word in words:
        assert word in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_elastic_run_may_have_what_divides_the_global_batch():
    assert build_with("train.global_batch=24", "train.workers=[2, 8]").train.world_sizes == [2, 3, 4, 6, 8]
    fixed = build_with("train.global_batch=24", "train.workers=[2, 8]", "train.micro_batch=4").train
    assert fixed.world_sizes == [2, 3, 6]
    assert build_with("train.workers=2").train.world_sizes == [2]
    # Counted no further than there are samples, or this would not end.
    assert build_with("train.workers=[1, 1000000000000000]").train.world_sizes == [1, 2, 4]


def test_a_missing_field_is_named():
    with pytest.raises(UserError, match=r"data\.train is not set"):
        build(TinyConfig, {**TREE, "data": {}})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(Exception, match="frozen"):
        build_with().train.steps = 5


def test_the_digest_changes_with_any_value_and_only_then():
    assert build_with().digest() == build_with("train.steps=4").digest()
    assert build_with().digest() != build_with("train.steps=5").digest()


@pytest.mark.parametrize("override", ["train.steps=400", "train.workers=2", "data.cache_dir=/x", "train.log_every=3"])
def test_where_how_long_and_how_often_are_no_part_of_a_runs_identity(override):
    assert build_with(override).identity() == build_with().identity()


@pytest.mark.parametrize(
    "override", ["train.lr_g=0.5", "train.global_batch=2", "train.seed=3", "train.betas=[0.5, 0.9]"]
)
def test_what_decides_what_is_learnt_is_part_of_it(override):
    assert build_with(override).identity() != build_with().identity()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("floors: [1]\n# a colleague's\nfloors: [2]\n", "'floors' stands in line 1 and in line 3, and only one"),
        ("floors:\n - {metric: psnr, at_least: 30, at_least: 1}", "'at_least' stands twice in line 2"),
        ('approvals: 1\n"approvals": 0', "'approvals' stands in line 1 and in line 2"),
        ("floors: &a [*a]", "is no YAML (found unconstructable recursive node"),
        ("[" * 5000, "is no YAML (nested too deeply)"),
        ("train: {", "is no YAML (while parsing a flow node"),
    ],
)
def test_a_file_that_says_two_things_or_nothing_is_refused(tmp_path, text, words):
    (tmp_path / "gates.yaml").write_text(text)
    with pytest.raises(UserError) as refusal:
        read_yaml(tmp_path / "gates.yaml")
    assert f"{tmp_path / 'gates.yaml'}: {words}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_merged_keys_may_be_written_over(tmp_path):
    text = (
        "x: &x {a: 1, c: 3}\nin:\n  base: &base {<<: *x, a: 2}\nuse: {<<: *base, c: 9}\nboth: {<<: [*x, *base], a: 4}\n"
    )
    (tmp_path / "run.yaml").write_text(text)
    tree = read_yaml(tmp_path / "run.yaml")
    assert tree["in"]["base"] == {"a": 2, "c": 3}
    assert tree["use"] == {"a": 2, "c": 9}
    assert tree["both"] == {"a": 4, "c": 3}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{train: 2024}", 'data.train: 2024 is read as a number; write it in quotes, as text: "2024"'),
        ("{train: 1e5}", "data.train: 100000.0 is read as a number; write it in quotes"),
        ("{train: true}", "data.train=true is neither a number nor text; give data.train=…"),
        ("{train: a, vall: b}", "unknown setting 'data.vall'; did you mean data.val=b?"),
    ],
)
def test_a_value_of_a_file_that_is_no_text_is_named_with_its_section(line, words):
    with pytest.raises(UserError) as refusal:
        build(TinyConfig, {**TREE, "data": safe_yaml.load(line)})
    assert words in str(refusal.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_file_may_have_a_byte_order_mark(tmp_path, encoding):
    (tmp_path / "run.yaml").write_bytes("name: größe\r\ntrain: {steps: 3}\r\n".encode(encoding))
    assert read_yaml(tmp_path / "run.yaml") == {"name": "größe", "train": {"steps": 3}}


def test_a_validator_of_a_repeated_section_names_which_one_it_is():
    with pytest.raises(UserError) as refusal:
        build(
            SearchFile,
            {
                "name": "s",
                "base": "demo",
                "search": {
                    "objective": {"mode": "max"},
                    "space": {"loss.style": {"uniform": [2, 1]}, "loss.l1": {"choise": [1]}},
                },
            },
        )
    assert "search.space.loss.style: uniform: [2.0, 1.0] is empty" in str(refusal.value)
    assert "unknown setting 'search.space.loss.l1.choise'" in str(refusal.value)
