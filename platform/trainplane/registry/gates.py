"""Verdicts of the gates on a model version.

Pure: no I/O. They follow from declared rules (`rules.GateRules`) and recorded numbers. An evaluation is what `isnet
evaluate --json` prints: {model, dataset_digest, masks_digest, definition, bins: {"all": {psnr, …, n}, "10-20": …}}. A
metric that is missing, NaN or infinite never passes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainplane.config.canonical import canonical_json
from trainplane.registry.preferred import Preference
from trainplane.registry.rules import (
    ALL,
    PRODUCTION,
    Beat,
    Better,
    Floor,
    GateRules,
    GoldenSet,
    Limit,
    NoWorse,
    Preferred,
    Requirement,
)
from trainplane.registry.significance import required_groups, smallest_p

Evaluation = Mapping[str, Any]
Comparisons = Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]]
"""{baseline: {bin: {metric: {difference, p_better, num_groups, …}}}}, the version minus the baseline, pair by pair."""

# Lineage that is as good as missing.
_NOT_RECORDED = (None, "", "unknown")


@dataclass(frozen=True)
class PackageCheck:
    """Result of one check of the package itself."""

    passed: bool | None  # None where only `values` were measured and a rule sets the bound
    evidence: str
    values: Mapping[str, float | str | None] = field(default_factory=dict)  # measurements behind it


@dataclass(frozen=True)
class GateVerdict:
    """Answer of one gate, with its evidence."""

    gate: str
    passed: bool
    evidence: str
    values: Mapping[str, float | str | None]


def evaluate_gates(
    rules: GateRules,
    evaluation: Evaluation | None,
    *,
    baselines: Mapping[str, Evaluation],
    production: Evaluation | None,
    lineage: Mapping[str, str | None],
    comparisons: Comparisons | None = None,
    checks: Mapping[str, PackageCheck] | None = None,
    approvers: Sequence[str] = (),
    preferences: Sequence[Preference] | None = None,
    golden_sets: Sequence[tuple[Evaluation, Evaluation]] | None = None,
) -> list[GateVerdict]:
    """Applies all rules to a version, in their order.

    Args:
        rules: What the version must show.
        evaluation: The version's own; None before it was evaluated.
        baselines: Evaluations by model address.
        production: Evaluation of the version that the alias points at. None on the first promotion of a name, which has
            to meet the absolute bounds only.
        lineage: Recorded facts by name.
        comparisons: Paired tests against the baselines.
        checks: Checks of the package by name; None skips them (the caller has just built the package).
        approvers: Users who approved, without the one who promotes.
        preferences: What people's votes say, one for each rule `preferred`; None if there is nothing to prefer it to.
        golden_sets: Evaluations of version and production, one pair for each rule `golden_set`; None as above.
    """
    verdicts = [_is_evaluated(evaluation)]
    # Numbers of the evaluation: alone, against the baselines, against production.
    if evaluation is not None:
        verdicts += _same_data(rules, evaluation)
        verdicts += [_meets_floor(rule, evaluation) for rule in rules.floors]
        verdicts += [_meets_limit(rule, evaluation) for rule in rules.limits]
        # Production is a baseline from the second promotion on.
        all_baselines = baselines if production is None else {**baselines, PRODUCTION: production}
        for rule in rules.beats:
            if rule.baseline != PRODUCTION or production is not None:
                paired_test = (comparisons or {}).get(rule.baseline)
                verdicts.append(_beats(rule, evaluation, all_baselines.get(rule.baseline), paired_test))
        if production is not None:
            verdicts += [verdict for rule in rules.no_worse for verdict in _is_no_worse(rule, evaluation, production)]
    # Everything that needs no evaluation.
    if golden_sets is not None:
        verdicts += [
            _is_no_worse_on_golden(rule, *pair) for rule, pair in zip(rules.golden_set, golden_sets, strict=True)
        ]
    if preferences is not None:
        verdicts += [_is_preferred(rule, measured) for rule, measured in zip(rules.preferred, preferences, strict=True)]
    verdicts.append(_has_lineage(rules, lineage))
    if checks is not None:
        required = [*rules.requires, *(("signed",) if rules.signed_by and "signed" not in rules.requires else ())]
        verdicts += [_meets_requirement(name, checks.get(name), rules) for name in required]
    if rules.approvals:
        verdicts.append(_is_approved(rules.approvals, approvers))
    return verdicts


def passed(verdicts: Sequence[GateVerdict]) -> bool:
    """Tells if all gates passed, and there was one."""
    return bool(verdicts) and all(verdict.passed for verdict in verdicts)


def verdicts_as_json(verdicts: Sequence[GateVerdict]) -> list[dict[str, Any]]:
    """Verdicts as `--json` shows them."""
    return [dict(finite(asdict(verdict))) for verdict in verdicts]


def verdict_digest(verdicts: Sequence[GateVerdict]) -> str:
    """Sha256 of the canonical JSON of the verdicts."""
    return hashlib.sha256(canonical_json(verdicts_as_json(verdicts))).hexdigest()


def finite(value: Any) -> Any:
    """Replaces NaN and infinities in a JSON value by None."""
    if isinstance(value, Mapping):
        return {str(key): finite(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _is_evaluated(evaluation: Evaluation | None) -> GateVerdict:
    if evaluation is None:
        return GateVerdict("evaluated", False, "the version has no evaluation; evaluate it first", {})
    bins = evaluation.get("bins") or {}
    count = _metric(evaluation, ALL, "n")
    # An evaluation of no picture proves nothing.
    if not bins or (ALL in bins and not count):
        return GateVerdict("evaluated", False, "the evaluation holds no picture; evaluate on a set that has some", {})
    return GateVerdict("evaluated", True, f"evaluated in {len(bins)} bins", {"n": count})


def _same_data(rules: GateRules, evaluation: Evaluation) -> list[GateVerdict]:
    """Requires the dataset and masks that the rules name."""
    verdicts = []
    for what, required in (("dataset", rules.dataset_digest), ("masks", rules.masks_digest)):
        digest = evaluation.get(f"{what}_digest")
        if required is not None:
            evidence = f"evaluated on {what} {_short(digest)}, the gate names {_short(required)}"
            values = {"got": digest, "wanted": required}
            verdicts.append(GateVerdict(f"{what} digest", digest == required, evidence, values))
    return verdicts


def _meets_floor(rule: Floor, evaluation: Evaluation) -> GateVerdict:
    value = _metric(evaluation, rule.bin, rule.metric)
    low, high = rule.at_least, rule.at_most
    # A missing value passes no bound.
    is_met = value is not None and (low is None or value >= low) and (high is None or value <= high)
    bounds = [f"{words} {bound:g}" for words, bound in (("at least", low), ("at most", high)) if bound is not None]
    evidence = f"{rule.metric} in {rule.bin} is {_number_text(value)}, need {' and '.join(bounds)}"
    values = {"value": value, "at_least": low, "at_most": high}
    return GateVerdict(f"floor {rule.metric} {rule.bin}", is_met, evidence, values)


def _meets_limit(rule: Limit, evaluation: Evaluation) -> GateVerdict:
    value = _finite_or_none((evaluation.get("cost") or {}).get(rule.what))
    evidence = f"{rule.what} is {_number_text(value)}, may be at most {rule.at_most:g}"
    is_met = value is not None and value <= rule.at_most
    return GateVerdict(f"limit {rule.what}", is_met, evidence, {"value": value, "at_most": rule.at_most})


def _meets_requirement(name: Requirement, check: PackageCheck | None, rules: GateRules) -> GateVerdict:
    # A requirement is not met by a check that was not reached.
    if check is None:
        return GateVerdict(name, False, f"{name} was not checked, because something before it failed", {})
    is_met, evidence = check.passed, check.evidence
    # The difference of golden pictures is measured; its bound is a rule.
    if name == "golden" and is_met is None:
        largest = _finite_or_none(check.values.get("largest_difference"))
        is_met = largest is not None and largest <= rules.golden_tolerance
        evidence = f"{evidence}; may differ by {rules.golden_tolerance} of 255 at the most"
    return GateVerdict(name, is_met is True, evidence, check.values)


def _is_approved(required: int, approvers: Sequence[str]) -> GateVerdict:
    # Each user counts once.
    people = sorted(set(approvers))
    names = ", ".join(people) or "no other user"
    evidence = f"approved by {names}; need {required} beside the one who promotes"
    return GateVerdict("approved", len(people) >= required, evidence, {"approvals": float(len(people))})


def _beats(
    rule: Beat, evaluation: Evaluation, baseline: Evaluation | None, paired_test: Mapping[str, Any] | None
) -> GateVerdict:
    """Requires a gain over the baseline; with `p_below` significant.

    The test is one-sided, because only a gain passes. Reports give two-sided p-values.
    """
    gate = f"beats {rule.baseline} {rule.metric} {rule.bin}"
    # Only models that were evaluated alike can be compared.
    if baseline is None:
        evidence = f"baseline {rule.baseline} was not evaluated; evaluate it on the same set"
        return GateVerdict(gate, False, evidence, {})
    if (mismatch := _protocol_mismatch(evaluation, baseline)) is not None:
        return GateVerdict(gate, False, f"baseline {rule.baseline} {mismatch}", {})
    # The gain itself.
    ours, theirs = _metric(evaluation, rule.bin, rule.metric), _metric(baseline, rule.bin, rule.metric)
    gain = _gain(ours, theirs, rule.better)
    evidence = (
        f"{rule.metric} in {rule.bin} is {_number_text(ours)}, {rule.baseline} has {_number_text(theirs)}; "
        f"need {rule.better} by more than {rule.by:g}"
    )
    is_better = gain is not None and gain > rule.by
    values: dict[str, float | str | None] = {"value": ours, "baseline": theirs}
    # Its significance, by the paired test over pictures.
    if rule.p_below is not None:
        result = ((paired_test or {}).get(rule.bin) or {}).get(rule.metric) or {}
        p_value, pictures = _finite_or_none(result.get("p_better")), result.get("num_groups", 0)
        is_better = is_better and p_value is not None and p_value < rule.p_below
        values["p"] = p_value
        outcome = "was not made" if p_value is None else f"says {p_value:.2g}"
        evidence += f", with p below {rule.p_below:g}; the one-sided paired test over {pictures} pictures {outcome}"
        evidence += _sample_size_hint(pictures, rule.p_below)
    return GateVerdict(gate, is_better, evidence, values)


def _sample_size_hint(pictures: int, p_below: float) -> str:
    """Hint for a sample too small to pass."""
    least = smallest_p(pictures)
    if pictures < 1 or least < p_below:
        return ""
    required = required_groups(p_below)
    return f", and {pictures} pictures cannot say less than {least:.2g}; evaluate on {required} at least"


def _is_no_worse(rule: NoWorse, evaluation: Evaluation, production: Evaluation) -> list[GateVerdict]:
    """Requires that no bin is worse than production's."""
    gate = f"no worse {rule.metric}"
    if (mismatch := _protocol_mismatch(evaluation, production)) is not None:
        return [GateVerdict(gate, False, f"production {mismatch}", {})]
    # The bins of the rule, or all that production has.
    bins = rule.bins if rule.bins is not None else sorted(production.get("bins") or {})
    if not bins:
        return [GateVerdict(gate, False, "production's evaluation has no bins; evaluate it again", {})]
    verdicts = []
    for name in bins:
        ours, theirs = _metric(evaluation, name, rule.metric), _metric(production, name, rule.metric)
        gain = _gain(ours, theirs, rule.better)
        evidence = (
            f"{rule.metric} in {name} is {_number_text(ours)}, production has {_number_text(theirs)}; "
            f"may be worse by at most {rule.by:g} ({rule.better} is better)"
        )
        is_met = gain is not None and gain >= -rule.by
        verdicts.append(GateVerdict(f"{gate} {name}", is_met, evidence, {"value": ours, "production": theirs}))
    return verdicts


def _is_no_worse_on_golden(rule: GoldenSet, evaluation: Evaluation, production: Evaluation) -> GateVerdict:
    """Requires that samples which people chose are no worse."""
    no_worse = NoWorse(metric=rule.metric, better=rule.better, by=rule.by, bins=(ALL,))
    [verdict] = _is_no_worse(no_worse, evaluation, production)
    evidence = f"on {rule.dataset}: {verdict.evidence}"
    return replace(verdict, gate=f"golden set {rule.dataset} {rule.metric}", evidence=evidence)


def _is_preferred(rule: Preferred, seen: Preference) -> GateVerdict:
    """Requires that people's votes speak for the version."""
    evidence = (
        f"{seen.votes} votes of {seen.raters} people ({seen.wins} for it, {seen.losses} against, {seen.ties} neither) "
        f"are evidence of {seen.evidence:.3g}, need {rule.odds:g}"
    )
    if seen.against >= rule.odds:
        evidence += f"; they prefer {rule.over}, with evidence of {seen.against:.3g}"
    elif seen.evidence < rule.odds:
        evidence += f"; {seen.waiting} more votes wait for others of the same people; ask more people"
    values = {name: float(getattr(seen, name)) for name in ("evidence", "against", "votes", "raters")}
    return GateVerdict(f"preferred over {rule.over}", seen.evidence >= rule.odds, evidence, values)


def _has_lineage(rules: GateRules, lineage: Mapping[str, str | None]) -> GateVerdict:
    # A version whose origin is unknown cannot be made again.
    missing = [name for name in rules.lineage if lineage.get(name) in _NOT_RECORDED]
    if missing:
        evidence = f"{', '.join(missing)} of the version not recorded; train and register it from a recorded run"
        return GateVerdict("lineage", False, evidence, {})
    values = {name: lineage[name] for name in rules.lineage}
    return GateVerdict("lineage", True, f"{', '.join(rules.lineage)} recorded", values)


def _protocol_mismatch(evaluation: Evaluation, reference: Evaluation) -> str | None:
    """Reason why two evaluations are not comparable, if any."""
    for what in ("dataset_digest", "masks_digest", "definition"):
        if evaluation.get(what) != reference.get(what):
            name = what.removesuffix("_digest")
            got, needed = _short(reference.get(what)), _short(evaluation.get(what))
            return f"was evaluated with another {name} ({got}, not {needed}); evaluate both alike"
    return None


def _metric(evaluation: Evaluation, bin_name: str, metric: str) -> float | None:
    """Finite metric of one bin, if there is one."""
    return _finite_or_none(((evaluation.get("bins") or {}).get(bin_name) or {}).get(metric))


def _finite_or_none(value: object) -> float | None:
    # True is an int in Python, but no measurement.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def _gain(ours: float | None, theirs: float | None, better: Better) -> float | None:
    if ours is None or theirs is None:
        return None
    return ours - theirs if better == "higher" else theirs - ours


def _number_text(value: float | None) -> str:
    return "not a finite number" if value is None else f"{value:.4g}"


def _short(value: object) -> str:
    return "none" if value is None else str(value)[:12]
