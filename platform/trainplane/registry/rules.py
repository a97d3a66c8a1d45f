"""Rules of the gates, as users declare them.

A version must meet them before an alias may move to it. `config.load.build(GateRules, read_yaml(path))` reads them::

    dataset_digest: 5c6f…            # the held-out set that was to be evaluated on
    floors:
      - {metric: psnr, at_least: 20}
      - {metric: l1_percent, bin: "40-50", at_most: 6}
    limits:
      - {what: latency_ms, at_most: 400}
    beats:
      - {baseline: classical:mean, metric: psnr, better: higher}
      - {baseline: production, metric: psnr, better: higher, p_below: 0.05}
    no_worse:
      - {metric: psnr, better: higher, by: 0.1}
    golden_set:
      - {dataset: isnet-demo-golden, masks: isnet-demo-golden-masks, metric: psnr, better: higher, by: 0.1}
    preferred:
      - {over: production, odds: 20, votes_per_rater: 3}
    requires: [signature, artifact, loads, golden, licence, card]
    approvals: 1
    lineage: [dataset_digest, config_digest, commit, model_digest]

`gates` applies them. A metric may be any name that an evaluation has.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainplane.config.section import Section

Better = Literal["higher", "lower"]
Requirement = Literal["signature", "artifact", "loads", "golden", "licence", "card", "signed"]
ALL = "all"
# Both the alias that is served and, in rules, the baseline that it points at.
PRODUCTION = "production"


class Floor(Section):
    """Absolute bound on one metric in one bin."""

    metric: str
    bin: str = Field(ALL, description="a bin of the evaluation, such as '10-20'; all: over every picture")
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_bound(self) -> Floor:
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"floor on {self.metric!r} has no bound; give at_least=… or at_most=…")
        return self


class Limit(Section):
    """Upper bound on one cost of the evaluation."""

    what: Literal["latency_ms", "memory_bytes", "parameters", "package_bytes"]
    at_most: float = Field(..., gt=0)


class Beat(Section):
    """Required gain over a baseline.

    A rule about production holds from the second promotion of a name on: before, there is none.
    """

    baseline: str = Field(..., description="model address such as 'classical:mean', or 'production'")
    metric: str
    better: Better
    bin: str = ALL
    by: float = Field(0.0, ge=0)
    p_below: float | None = Field(
        None, gt=0, lt=1, description="chance, by the paired test, of such a gain for nothing"
    )


class NoWorse(Section):
    """Largest allowed loss against production, bin by bin."""

    metric: str
    better: Better
    by: float = Field(0.0, ge=0)
    bins: tuple[str, ...] | None = Field(None, description="bins that are compared; none: every bin of production")


class GoldenSet(Section):
    """Largest allowed loss against production on samples that people chose.

    The rule holds from the second promotion of a name on.
    """

    dataset: str = Field(..., description="dataset of the samples; `models golden` makes one from traces")
    masks: str = Field("irregular", description="what is asked of each sample, as in an evaluation")
    metric: str
    better: Better
    by: float = Field(0.0, ge=0)


class Preferred(Section):
    """Required preference of the people who voted under traffic.

    It may be looked at any number of times. The rule holds from the second promotion of a name on: before, there is no
    version to compare with.
    """

    over: Literal["production"] = Field("production", description="the version that people must like less")
    odds: float = Field(
        20.0, ge=4, description="evidence that is needed; where nothing is preferred, 1 in `odds` promotions passes"
    )
    votes_per_rater: int = Field(3, ge=1, description="first votes of a person that count, together, as one bet")
    wait_hours: float = Field(24.0, ge=0, description="hours after a person's first vote when fewer votes count")


class GateRules(Section):
    """All requirements on a version."""

    dataset_digest: str | None = Field(None, description="digest of the dataset to evaluate on; none: any")
    masks_digest: str | None = Field(None, description="digest of the masks to evaluate on; none: any")
    floors: tuple[Floor, ...] = ()
    limits: tuple[Limit, ...] = ()
    beats: tuple[Beat, ...] = ()
    no_worse: tuple[NoWorse, ...] = ()
    golden_set: tuple[GoldenSet, ...] = Field((), description="samples that people chose, no worse there")
    preferred: tuple[Preferred, ...] = Field((), description="what the votes of `serve` must show")
    requires: tuple[Requirement, ...] = Field(
        ("signature", "artifact", "loads", "golden", "licence", "card"),
        description="what is checked in the package itself, in a process of its own",
    )
    trusted_code: tuple[str, ...] = Field(
        (), description="digests of packages' code that may be run beside this installation's own"
    )
    signed_by: tuple[str, ...] = Field(
        (), description="files of public keys, one of which must have signed the package; none: it need not be signed"
    )
    golden_tolerance: int = Field(1, ge=0, le=255, description="largest difference of a golden picture, in 8-bit steps")
    approvals: int = Field(0, ge=0, description="people other than the one who promotes who must have approved")
    lineage: tuple[str, ...] = ("run_id", "dataset_digest", "config_digest", "commit", "model_digest")
