"""Gates let a version through on recorded, finite, comparable numbers only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.config.load import build, read_yaml
from trainplane.errors import UserError
from trainplane.registry.gates import GateVerdict, PackageCheck, evaluate_gates, passed, verdicts_as_json
from trainplane.registry.rules import Beat, Floor, GateRules, Limit, NoWorse

LINEAGE = {"run_id": "r", "dataset_digest": "d", "config_digest": "c", "commit": "a1b2", "model_digest": "m"}


def evaluation(psnr: object = 25.0, *, dataset: str = "set", masks: str = "masks", **bins: float) -> dict[str, Any]:
    return {
        "model": "models:/isnet/1",
        "dataset_digest": dataset,
        "masks_digest": masks,
        "definition": "v1",
        "bins": {"all": {"psnr": psnr, "n": 12}, **{name: {"psnr": value, "n": 6} for name, value in bins.items()}},
    }


def verdicts(rules: GateRules, ours: dict[str, Any] | None, **others: Any) -> dict[str, GateVerdict]:
    known = {"baselines": {}, "production": None, "lineage": LINEAGE, **others}
    return {verdict.gate: verdict for verdict in evaluate_gates(rules, ours, **known)}


def test_a_version_that_meets_every_rule_passes() -> None:
    rules = GateRules(
        dataset_digest="set",
        floors=(Floor(metric="psnr", at_least=20),),
        beats=(Beat(baseline="classical:mean", metric="psnr", better="higher"),),
        no_worse=(NoWorse(metric="psnr", better="higher", by=0.5),),
    )
    found = evaluate_gates(
        rules,
        evaluation(25.0, low=30.0),
        baselines={"classical:mean": evaluation(18.0)},
        production=evaluation(25.2, low=30.4),
        lineage=LINEAGE,
    )
    assert [verdict.gate for verdict in found] == [
        "evaluated",
        "dataset digest",
        "floor psnr all",
        "beats classical:mean psnr all",
        "no worse psnr all",
        "no worse psnr low",
        "lineage",
    ]
    assert passed(found)
    json.dumps(verdicts_as_json(found), allow_nan=False)


def test_without_an_evaluation_nothing_passes() -> None:
    found = verdicts(GateRules(floors=(Floor(metric="psnr", at_least=1),)), None)
    assert not found["evaluated"].passed
    assert "has no evaluation; evaluate it first" in found["evaluated"].evidence
    assert not passed([])


@pytest.mark.parametrize("bins", [{}, {"all": {"psnr": 25.0, "n": 0}}])
def test_an_evaluation_of_no_picture_does_not_pass(bins: dict[str, Any]) -> None:
    assert not verdicts(GateRules(), {**evaluation(), "bins": bins})["evaluated"].passed


def test_an_evaluation_on_another_dataset_than_the_gate_names_does_not_pass() -> None:
    found = verdicts(GateRules(dataset_digest="held-out", masks_digest="masks"), evaluation(dataset="easy"))
    assert not found["dataset digest"].passed
    assert found["masks digest"].passed
    assert "easy" in found["dataset digest"].evidence
    assert "held-out" in found["dataset digest"].evidence


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "25", True])
@pytest.mark.parametrize("bound", [{"at_least": -1e9}, {"at_most": 1e9}])
def test_a_metric_that_is_no_finite_number_never_passes(value: object, bound: dict[str, float]) -> None:
    rules = GateRules(
        floors=(Floor(metric="psnr", **bound),),
        beats=(Beat(baseline="b", metric="psnr", better="lower"),),
        no_worse=(NoWorse(metric="psnr", better="lower", by=1e9),),
    )
    ours, theirs = evaluation(value), evaluation(20.0)
    found = verdicts(rules, ours, baselines={"b": theirs}, production=theirs)
    assert not found["floor psnr all"].passed
    assert not found["beats b psnr all"].passed
    assert not found["no worse psnr all"].passed
    json.dumps(verdicts_as_json(list(found.values())), allow_nan=False)
    # A broken number on the other side is no reason to pass either.
    found = verdicts(rules, theirs, baselines={"b": ours}, production=ours)
    assert not found["beats b psnr all"].passed
    assert not found["no worse psnr all"].passed


def test_missing_bins_and_metrics_do_not_pass() -> None:
    rules = GateRules(
        floors=(Floor(metric="ssim", at_least=0), Floor(metric="psnr", bin="10-20", at_least=0)),
        no_worse=(NoWorse(metric="psnr", better="higher", bins=("10-20",)),),
    )
    found = verdicts(rules, evaluation(), production=evaluation())
    assert [verdict.passed for verdict in found.values()] == [True, False, False, False, True]


def test_bounds_are_inclusive_and_a_gain_must_exceed_its_margin() -> None:
    rules = GateRules(
        floors=(Floor(metric="psnr", at_least=25, at_most=25),),
        beats=(Beat(baseline="b", metric="psnr", better="higher", by=1),),
        no_worse=(NoWorse(metric="psnr", better="higher", by=1),),
    )
    even = verdicts(rules, evaluation(25.0), baselines={"b": evaluation(24.0)}, production=evaluation(26.0))
    assert even["floor psnr all"].passed
    assert not even["beats b psnr all"].passed
    assert even["no worse psnr all"].passed


def test_lower_is_better_where_the_rule_says_so() -> None:
    rules = GateRules(
        no_worse=(NoWorse(metric="psnr", better="lower"),), beats=(Beat(baseline="b", metric="psnr", better="lower"),)
    )
    better = verdicts(rules, evaluation(3.0), baselines={"b": evaluation(4.0)}, production=evaluation(3.5))
    worse = verdicts(rules, evaluation(5.0), baselines={"b": evaluation(4.0)}, production=evaluation(3.5))
    assert better["no worse psnr all"].passed
    assert better["beats b psnr all"].passed
    assert not worse["no worse psnr all"].passed
    assert not worse["beats b psnr all"].passed


def test_the_first_promotion_meets_the_absolute_floors_only() -> None:
    rules = GateRules(no_worse=(NoWorse(metric="psnr", better="higher"),), floors=(Floor(metric="psnr", at_least=20),))
    assert list(verdicts(rules, evaluation())) == ["evaluated", "floor psnr all", "lineage"]


@pytest.mark.parametrize("what", [{"dataset": "other"}, {"masks": "other"}])
def test_numbers_from_different_data_are_not_compared(what: dict[str, str]) -> None:
    rules = GateRules(
        no_worse=(NoWorse(metric="psnr", better="higher"),),
        beats=(Beat(baseline="b", metric="psnr", better="higher"), Beat(baseline="c", metric="psnr", better="higher")),
    )
    other = evaluation(1.0, **what)
    found = verdicts(rules, evaluation(), baselines={"b": other}, production=other)
    assert not found["no worse psnr"].passed
    assert "another" in found["no worse psnr"].evidence
    assert not found["beats b psnr all"].passed
    assert "was not evaluated" in found["beats c psnr all"].evidence


@pytest.mark.parametrize("missing", [None, "", "unknown"])
def test_an_incomplete_lineage_does_not_pass(missing: str | None) -> None:
    found = verdicts(GateRules(), evaluation(), lineage={**LINEAGE, "commit": missing})
    assert not found["lineage"].passed
    assert "commit" in found["lineage"].evidence


@given(
    ours=st.floats(-50, 50),
    theirs=st.floats(-50, 50),
    by=st.floats(0, 10),
    better=st.sampled_from(["higher", "lower"]),
)
def test_no_version_passes_both_of_two_that_exclude_each_other(
    ours: float, theirs: float, by: float, better: Any
) -> None:
    """If A beats B by a margin, then B is worse than A by that margin."""
    beats = GateRules(beats=(Beat(baseline="b", metric="psnr", better=better, by=by),))
    no_worse = GateRules(no_worse=(NoWorse(metric="psnr", better=better, by=by),))
    a_beats_b = passed(list(verdicts(beats, evaluation(ours), baselines={"b": evaluation(theirs)}).values()))
    b_keeps_up = passed(list(verdicts(no_worse, evaluation(theirs), production=evaluation(ours)).values()))
    assert a_beats_b != b_keeps_up


def test_rules_are_read_from_yaml_and_mistakes_are_named(tmp_path: Path) -> None:
    good = tmp_path / "gates.yaml"
    good.write_text(
        "floors:\n  - {metric: psnr, at_least: 20}\nno_worse:\n"
        "  - {metric: psnr, better: higher, by: 1e-1}\nlineage: [commit]\n"
    )
    rules = build(GateRules, read_yaml(good))
    assert rules.floors == (Floor(metric="psnr", at_least=20),)
    assert rules.no_worse[0].by == 0.1
    assert rules.lineage == ("commit",)
    for text, complaint in (
        ("floors:\n  - {metric: psnr}\n", "no bound; give at_least"),
        ("beats:\n  - {baseline: b, metric: psnr, better: bigger}\n", "better"),
        ("floor: []\n", "did you mean floors"),
    ):
        bad = tmp_path / "bad.yaml"
        bad.write_text(text)
        with pytest.raises(UserError, match=complaint):
            build(GateRules, read_yaml(bad))


def compared(p: float) -> dict[str, Any]:
    return {"all": {"psnr": {"difference": 1.0, "p_better": p, "num_groups": 12}}}


def test_a_gain_must_be_sure_where_the_rule_asks_for_it() -> None:
    rules = GateRules(beats=(Beat(baseline="production", metric="psnr", better="higher", p_below=0.05),), lineage=())
    ours, theirs = {"bins": {"all": {"psnr": 25.0, "n": 9}}}, {"bins": {"all": {"psnr": 24.0, "n": 9}}}

    def beat(comparisons: dict[str, Any]) -> GateVerdict:
        [found] = [
            v
            for v in evaluate_gates(rules, ours, baselines={}, production=theirs, lineage={}, comparisons=comparisons)
            if v.gate.startswith("beats")
        ]
        return found

    assert beat({"production": compared(0.049)}).passed
    unsure = beat({"production": compared(0.2)})
    assert not unsure.passed
    assert "the one-sided paired test over 12 pictures says 0.2" in unsure.evidence
    assert "evaluate on" not in unsure.evidence
    few = {"all": {"psnr": {"difference": 1.0, "p_better": 0.0625, "num_groups": 4}}}
    assert "4 pictures cannot say less than 0.062; evaluate on 5 at least" in beat({"production": few}).evidence
    assert not beat({}).passed
    assert not beat({"production": compared(math.nan)}).passed
    # The first promotion of a name has nothing to beat.
    verdicts = evaluate_gates(rules, ours, baselines={}, production=None, lineage={})
    assert not [v for v in verdicts if v.gate.startswith("beats")]


@pytest.mark.parametrize(("value", "fine"), [(399.0, True), (401.0, False), (None, False), (math.inf, False)])
def test_costs_have_limits(value: float | None, fine: bool) -> None:
    rules = GateRules(limits=(Limit(what="latency_ms", at_most=400),), lineage=())
    evaluation = {"bins": {"all": {"n": 1}}, "cost": {"latency_ms": value}}
    [limit] = [
        v for v in evaluate_gates(rules, evaluation, baselines={}, production=None, lineage={}) if "limit" in v.gate
    ]
    assert limit.passed is fine


@pytest.mark.parametrize(("worst", "fine"), [(0.0, True), (2.0, True), (3.0, False), (None, False), (math.nan, False)])
def test_golden_pictures_may_differ_by_the_tolerance_and_no_more(worst: float | None, fine: bool) -> None:
    rules = GateRules(requires=("golden",), golden_tolerance=2, lineage=())
    checks = {"golden": PackageCheck(None, "they differ", {"largest_difference": worst})}
    verdicts = evaluate_gates(rules, None, baselines={}, production=None, lineage={}, checks=checks)
    assert [v.passed for v in verdicts if v.gate == "golden"] == [fine]


def test_what_was_not_looked_at_has_not_passed() -> None:
    checks = {"artifact": PackageCheck(False, "changed")}
    verdicts = {
        v.gate: v for v in evaluate_gates(GateRules(), None, baselines={}, production=None, lineage={}, checks=checks)
    }
    for name in ("artifact", "signature", "loads", "golden", "licence", "card"):
        assert not verdicts[name].passed
    assert "was not checked" in verdicts["loads"].evidence


def test_people_are_counted_once() -> None:
    rules = GateRules(approvals=2, lineage=())
    for people, fine in (([], False), (["a@x", "a@x"], False), (["a@x", "b@x"], True)):
        verdicts = evaluate_gates(rules, None, baselines={}, production=None, lineage={}, approvers=people)
        assert [v.passed for v in verdicts if v.gate == "approved"] == [fine]
