"""Verdicts on a model version: pure functions of declared rules and recorded numbers.

The rules are `rules.Rules`, as a YAML file declares them. An evaluation is what `isnet evaluate --json` prints:
{model, dataset_digest, masks_digest, definition, bins: {"all": {psnr, …, n}, "10-20": …}}. A metric that is missing,
NaN or infinite never passes. Acting on verdicts is `promote`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainplane.registry.rules import ALL, PRODUCTION, Beat, Better, Floor, Limit, NoWorse, Requirement, Rules

Evaluation = Mapping[str, Any]
Comparisons = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""{baseline: {bin: {metric: {difference, p_better, num_groups, …}}}}, the version minus the baseline, pair by pair."""


@dataclass(frozen=True)
class Check:
    """What looking at the package found out. `fine` None: only `values` were measured, a rule says what they may be."""

    fine: bool | None
    evidence: str
    values: Mapping[str, float | str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """One gate's answer, with a sentence of evidence and the numbers behind it."""

    gate: str
    passed: bool
    evidence: str
    values: Mapping[str, float | str | None]


def judge(
    rules: Rules,
    evaluation: Evaluation | None,
    *,
    baselines: Mapping[str, Evaluation],
    production: Evaluation | None,
    lineage: Mapping[str, str | None],
    comparisons: Comparisons | None = None,
    checks: Mapping[str, Check] | None = None,
    approvers: Sequence[str] = (),
) -> list[Verdict]:
    """Every verdict on a version, failed ones among them, in the order of the rules.

    `production` is the evaluation of the version the alias points at; None on the first promotion of a name, which
    meets the absolute floors only. `baselines` are evaluations by model address. `checks` None: the caller has made
    the package itself a moment ago, and nothing is required of it. `approvers`: who approved, the promoter left out.
    """
    verdicts = [_evaluated(evaluation)]
    if evaluation is not None:
        known = baselines if production is None else {**baselines, PRODUCTION: production}
        verdicts += _same_data(rules, evaluation)
        verdicts += [_floor(rule, evaluation) for rule in rules.floors]
        verdicts += [_limit(rule, evaluation) for rule in rules.limits]
        for rule in rules.beats:
            if rule.baseline != PRODUCTION or production is not None:
                paired = (comparisons or {}).get(rule.baseline)
                verdicts.append(_beat(rule, evaluation, known.get(rule.baseline), paired))
        if production is not None:
            verdicts += [verdict for rule in rules.no_worse for verdict in _no_worse(rule, evaluation, production)]
    verdicts.append(_lineage(rules, lineage))
    if checks is not None:
        verdicts += [_required(name, checks.get(name), rules) for name in rules.requires]
    if rules.approvals:
        verdicts.append(_approved(rules.approvals, approvers))
    return verdicts


def passed(verdicts: list[Verdict]) -> bool:
    """Whether all gates opened; no verdict at all is no permission."""
    return bool(verdicts) and all(verdict.passed for verdict in verdicts)


def _evaluated(evaluation: Evaluation | None) -> Verdict:
    if evaluation is None:
        return Verdict("evaluated", False, "the version has no evaluation; run `isnet evaluate` on it", {})
    bins = evaluation.get("bins") or {}
    count = _number(evaluation, ALL, "n")
    if not bins or (ALL in bins and not count):
        return Verdict("evaluated", False, "the evaluation holds no picture; evaluate on a set that has some", {})
    return Verdict("evaluated", True, f"evaluated in {len(bins)} bins", {"n": count})


def _same_data(rules: Rules, evaluation: Evaluation) -> list[Verdict]:
    verdicts = []
    for what, wanted in (("dataset", rules.dataset_digest), ("masks", rules.masks_digest)):
        got = evaluation.get(f"{what}_digest")
        if wanted is not None:
            evidence = f"evaluated on {what} {_short(got)}, the gate names {_short(wanted)}"
            verdicts.append(Verdict(f"{what} digest", got == wanted, evidence, {"got": got, "wanted": wanted}))
    return verdicts


def _floor(rule: Floor, evaluation: Evaluation) -> Verdict:
    value = _number(evaluation, rule.bin, rule.metric)
    low, high = rule.at_least, rule.at_most
    fine = value is not None and (low is None or value >= low) and (high is None or value <= high)
    bounds = " and ".join(
        [f"at least {low:g}" for _ in [0] if low is not None] + [f"at most {high:g}" for _ in [0] if high is not None]
    )
    evidence = f"{rule.metric} in {rule.bin} is {_shown(value)}, need {bounds}"
    return Verdict(
        f"floor {rule.metric} {rule.bin}", fine, evidence, {"value": value, "at_least": low, "at_most": high}
    )


def _limit(rule: Limit, evaluation: Evaluation) -> Verdict:
    value = _finite((evaluation.get("cost") or {}).get(rule.what))
    evidence = f"{rule.what} is {_shown(value)}, may be at most {rule.at_most:g}"
    fine = value is not None and value <= rule.at_most
    return Verdict(f"limit {rule.what}", fine, evidence, {"value": value, "at_most": rule.at_most})


def _required(name: Requirement, check: Check | None, rules: Rules) -> Verdict:
    if check is None:
        return Verdict(name, False, f"{name} was not looked at, because something before it failed", {})
    fine, evidence = check.fine, check.evidence
    if name == "golden" and fine is None:
        worst = _finite(check.values.get("largest_difference"))
        fine = worst is not None and worst <= rules.golden_tolerance
        evidence = f"{evidence}; may differ by {rules.golden_tolerance} of 255 at the most"
    return Verdict(name, fine is True, evidence, check.values)


def _approved(needed: int, approvers: Sequence[str]) -> Verdict:
    people = sorted(set(approvers))
    evidence = f"approved by {', '.join(people) or 'nobody else'}; need {needed} beside the one who promotes"
    return Verdict("approved", len(people) >= needed, evidence, {"approvals": float(len(people))})


def _beat(rule: Beat, evaluation: Evaluation, baseline: Evaluation | None, paired: Mapping[str, Any] | None) -> Verdict:
    gate = f"beats {rule.baseline} {rule.metric} {rule.bin}"
    if baseline is None:
        return Verdict(gate, False, f"baseline {rule.baseline} was not evaluated; evaluate it on the same set", {})
    if (differing := _differing(evaluation, baseline)) is not None:
        return Verdict(gate, False, f"baseline {rule.baseline} {differing}", {})
    ours, theirs = _number(evaluation, rule.bin, rule.metric), _number(baseline, rule.bin, rule.metric)
    gain = _gain(ours, theirs, rule.better)
    evidence = (
        f"{rule.metric} in {rule.bin} is {_shown(ours)}, {rule.baseline} has {_shown(theirs)}; "
        f"need {rule.better} by more than {rule.by:g}"
    )
    fine = gain is not None and gain > rule.by
    values: dict[str, float | str | None] = {"value": ours, "baseline": theirs}
    if rule.p_below is not None:
        found = ((paired or {}).get(rule.bin) or {}).get(rule.metric) or {}
        p = _finite(found.get("p_better"))
        fine = fine and p is not None and p < rule.p_below
        values["p"] = p
        evidence += f", with p below {rule.p_below:g}; the paired test over {found.get('num_groups', 0)} pictures "
        evidence += "was not made" if p is None else f"says {p:.2g}"
        evidence += _too_few(found.get("num_groups", 0), rule.p_below)
    return Verdict(gate, fine, evidence, values)


def _too_few(pictures: int, p_below: float) -> str:
    """A word where no result could have passed: n signs that a coin decides all fall one way in 2⁻ⁿ of the cases."""
    least = math.floor(-math.log2(p_below)) + 1
    if not 0 < pictures < least:
        return ""
    return f", and {pictures} pictures cannot say less than {2.0**-pictures:.2g}; evaluate on {least} at least"


def _no_worse(rule: NoWorse, evaluation: Evaluation, production: Evaluation) -> list[Verdict]:
    if (differing := _differing(evaluation, production)) is not None:
        return [Verdict(f"no worse {rule.metric}", False, f"production {differing}", {})]
    bins = rule.bins if rule.bins is not None else sorted(production.get("bins") or {})
    if not bins:
        return [Verdict(f"no worse {rule.metric}", False, "production's evaluation has no bins; evaluate it again", {})]
    verdicts = []
    for name in bins:
        ours, theirs = _number(evaluation, name, rule.metric), _number(production, name, rule.metric)
        gain = _gain(ours, theirs, rule.better)
        evidence = (
            f"{rule.metric} in {name} is {_shown(ours)}, production has {_shown(theirs)}; "
            f"may be worse by at most {rule.by:g} ({rule.better} is better)"
        )
        fine = gain is not None and gain >= -rule.by
        verdicts.append(
            Verdict(f"no worse {rule.metric} {name}", fine, evidence, {"value": ours, "production": theirs})
        )
    return verdicts


def _lineage(rules: Rules, lineage: Mapping[str, str | None]) -> Verdict:
    missing = [name for name in rules.lineage if lineage.get(name) in (None, "", "unknown")]
    if missing:
        evidence = f"{', '.join(missing)} of the version not recorded; train and register it from a recorded run"
        return Verdict("lineage", False, evidence, {})
    return Verdict(
        "lineage", True, f"{', '.join(rules.lineage)} recorded", {name: lineage[name] for name in rules.lineage}
    )


def _differing(one: Evaluation, other: Evaluation) -> str | None:
    """Why two evaluations cannot be compared; None when they can."""
    for what in ("dataset_digest", "masks_digest", "definition"):
        if one.get(what) != other.get(what):
            name = what.removesuffix("_digest")
            got, needed = _short(other.get(what)), _short(one.get(what))
            return f"was evaluated with another {name} ({got}, not {needed}); evaluate both alike"
    return None


def _number(evaluation: Evaluation, bin_name: str, metric: str) -> float | None:
    """A finite metric, or None."""
    return _finite(((evaluation.get("bins") or {}).get(bin_name) or {}).get(metric))


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _gain(ours: float | None, theirs: float | None, better: Better) -> float | None:
    if ours is None or theirs is None:
        return None
    return ours - theirs if better == "higher" else theirs - ours


def _shown(value: float | None) -> str:
    return "not a finite number" if value is None else f"{value:.4g}"


def _short(value: object) -> str:
    return "none" if value is None else str(value)[:12]
