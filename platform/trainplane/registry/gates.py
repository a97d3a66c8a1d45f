"""Verdicts on a model version: pure functions of declared rules and recorded numbers.

Rules are declared in YAML and read with `config.build(Rules, config.read_yaml(path))`::

    dataset_digest: 5c6f…            # the held-out set that was to be evaluated on
    floors:
      - {metric: psnr, at_least: 20}
      - {metric: l1_percent, bin: "40-50", at_most: 6}
    beats:
      - {baseline: classical:mean, metric: psnr, better: higher}
    no_worse:
      - {metric: psnr, better: higher, by: 0.1}
    lineage: [dataset_digest, config_digest, commit, model_digest]

An evaluation is what `isnet evaluate --json` prints: {model, dataset_digest, masks_digest, definition, bins: {"all":
{psnr, …, n}, "10-20": …}}. A metric that is missing, NaN or infinite never passes. Acting on verdicts is `promote`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from trainplane.section import Section

Evaluation = Mapping[str, Any]
Better = Literal["higher", "lower"]
ALL = "all"


class Floor(Section):
    """An absolute bound on one metric in one bin."""

    metric: str
    bin: str = Field(ALL, description="a bin of the evaluation, such as '10-20'; all: over every picture")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Floor:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"floor on {self.metric!r} has no bound; give at_least=… or at_most=…")
        return self


class Beat(Section):
    """The version must be better than a named baseline by more than `by`."""

    baseline: str = Field(..., description="model address of the baseline, such as 'classical:mean'")
    metric: str
    better: Better
    bin: str = ALL
    by: float = Field(0.0, ge=0)


class NoWorse(Section):
    """The version must not be worse than what is in production by more than `by`, in every bin both have."""

    metric: str
    better: Better
    by: float = Field(0.0, ge=0)
    bins: tuple[str, ...] | None = Field(None, description="bins that are compared; none: every bin of production")


class Rules(Section):
    """What a version must show before an alias may move to it."""

    dataset_digest: str | None = Field(None, description="digest of the dataset to evaluate on; none: any")
    masks_digest: str | None = Field(None, description="digest of the masks to evaluate on; none: any")
    floors: tuple[Floor, ...] = ()
    beats: tuple[Beat, ...] = ()
    no_worse: tuple[NoWorse, ...] = ()
    lineage: tuple[str, ...] = ("run_id", "dataset_digest", "config_digest", "commit", "model_digest")


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
) -> list[Verdict]:
    """Every verdict on a version, failed ones among them, in the order of the rules.

    `production` is the evaluation of the version the alias points at; None on the first promotion of a name, which
    meets the absolute floors only. `baselines` are evaluations by model address.
    """
    verdicts = [_evaluated(evaluation)]
    if evaluation is not None:
        verdicts += _same_data(rules, evaluation)
        verdicts += [_floor(rule, evaluation) for rule in rules.floors]
        verdicts += [_beat(rule, evaluation, baselines.get(rule.baseline)) for rule in rules.beats]
        if production is not None:
            verdicts += [verdict for rule in rules.no_worse for verdict in _no_worse(rule, evaluation, production)]
    verdicts.append(_lineage(rules, lineage))
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


def _beat(rule: Beat, evaluation: Evaluation, baseline: Evaluation | None) -> Verdict:
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
    return Verdict(gate, gain is not None and gain > rule.by, evidence, {"value": ours, "baseline": theirs})


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
    value = ((evaluation.get("bins") or {}).get(bin_name) or {}).get(metric)
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
