"""Measures model versions for gates.

No number that a gate uses comes from MLflow. A promotion measures each version itself, or reads what an earlier
promotion stored beside the audit trail; a version's recorded evaluation is only compared with that, and replaced where
it says something else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isnet.metrics import METRICS
from jobs.cli.format import quantity
from jobs.evaluation.evaluation import Measurement, Protocol, make_protocol, measure_model, summarize
from jobs.evaluation.models import open_model
from jobs.evaluation.recorded_evaluation import recorded_evaluation
from jobs.evaluation.run import evaluate_and_record
from jobs.evaluation.scores import Score, from_csv, to_csv
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.errors import RunFailed, UserError
from trainplane.registry.measurements import read_measurement, store_measurement
from trainplane.registry.rules import GateRules
from trainplane.registry.versions import ModelVersion
from trainplane.storage import Store

# Part of what identifies a stored measurement: a change of the measuring code that changes scores changes it.
_FORMAT = "1"
# Another processor, or another number of tasks, changes digits behind these.
_RELATIVE_TOLERANCE, _TOLERANCE = 1e-3, 1e-6


@dataclass(frozen=True)
class Judged:
    """Pictures and holes of a promotion, as typed."""

    dataset: str | None = None  # None: the pictures and holes that the version's evaluation records
    masks: str | None = None  # None: generated ones
    size: int | None = None  # pixels; None: the model's


def judged_protocol(context: Context, version: ModelVersion, rules: GateRules, judged: Judged) -> Protocol | None:
    """Pictures and holes to judge on; None if unknown."""
    recorded, faults = recorded_evaluation(version)
    if judged.dataset is None:
        if judged.masks is not None or judged.size is not None:
            raise UserError("--masks and --size say how a dataset is measured; name it with --dataset")
        if recorded is None and faults:
            evaluate = command_line("evaluate", version.address, "DATASET")
            raise UserError(
                f"{faults[0]}, and no pictures are named; give --dataset, or evaluate the version again: {evaluate}"
            )
        return None if recorded is None else _same_protocol(context, recorded)
    # Holes that the rules name by their digest are those of the record, if that fits: only it knows how they were made.
    if recorded is not None and rules.masks_digest == recorded["masks_digest"]:
        return _same_protocol(context, recorded)
    size = judged.size or open_model(version.address, context).size or 256
    return make_protocol(context, judged.dataset, masks=judged.masks or "irregular", size=size)


def measure_version(context: Context, store: Store, version: ModelVersion, protocol: Protocol) -> Measurement:
    """Measures a version, or reads what an earlier promotion measured."""
    model = open_model(version.address, context)
    pairing, definition = protocol.eval_set.pairing, protocol.eval_set.definition
    # Opening the model has compared its files with this digest.
    subject = {
        "format": _FORMAT,
        "model": str(version.model_digest),
        "pairs": pairing.digest,
        "definition": definition,
        **({} if protocol.eval_set.refine == "off" else {"refine": protocol.eval_set.refine}),
    }
    scores = _parsed(read_measurement(store, subject), len(pairing.pairs))
    if scores is None:
        scores = measure_model(model, protocol).scores
        store_measurement(store, subject, to_csv(scores).encode())
    return Measurement(summarize(model, protocol, scores), scores)


def _parsed(stored: bytes | None, num_pairs: int) -> list[Score] | None:
    """Scores of a stored measurement, if it is whole."""
    try:
        scores = from_csv(stored.decode()) if stored is not None else []
    except ValueError:
        scores = []
    return scores if [score.pair for score in scores] == list(range(num_pairs)) else None


def record_measurement(context: Context, version: ModelVersion, protocol: Protocol, measured: Measurement) -> str:
    """Records what was measured, unless the version's record agrees.

    Returns:
        What was measured on what, and what became of a record that said something else.
    """
    pairing = protocol.eval_set.pairing
    pictures = measured.evaluation["pictures"]
    text = (
        f"by promotions, not by the version's record: {quantity(len(pairing.pairs), 'pair')} of "
        f"{quantity(pictures, 'picture')} of {protocol.name} ({pairing.dataset_digest[:12]}), "
        f"holes {protocol.masks}, {pairing.size} px"
    )
    recorded, faults = recorded_evaluation(version)
    if recorded is not None and (difference := _difference(recorded, measured.evaluation)) is None:
        return text
    label = version.address
    done = evaluate_and_record(context, {label: open_model(label, context)}, protocol, measured={label: measured})
    if done.unsent is not None:
        raise RunFailed(f"{done.unsent}; after that, promote the version again")
    version.reload()
    if recorded is not None:
        return f"{text}; the version's record had {difference} and was replaced"
    return f"{text}; {faults[0]}" if faults else text


def _difference(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> str | None:
    """Difference of a record from a measurement, if any."""
    for name in ("dataset_digest", "masks_digest", "definition"):
        if recorded[name] != measured[name]:
            return f"another {name.removesuffix('_digest')}"
    if recorded.get("refine", "off") != measured.get("refine", "off"):
        return "another way of filling (refine)"
    if set(recorded["bins"]) != set(measured["bins"]):
        return "other bins"
    for name, means in measured["bins"].items():
        for metric in (*METRICS, "n"):
            value = recorded["bins"][name].get(metric)
            if value is None or not math.isclose(value, means[metric], rel_tol=_RELATIVE_TOLERANCE, abs_tol=_TOLERANCE):
                return f"{metric} {value} in {name} instead of {means[metric]:.6g}"
    return None


def _same_protocol(context: Context, evaluation: Mapping[str, Any]) -> Protocol:
    """Makes an evaluation's protocol again; its data must be unchanged."""
    protocol = make_protocol(
        context,
        evaluation["dataset"],
        masks=evaluation["masks"],
        size=evaluation["size"],
        seed=evaluation["seed"],
        definition=evaluation["definition"],
        loading=evaluation.get("loading", "nearest"),
        pictures=evaluation.get("pictures"),
        refine=evaluation.get("refine", "off"),
    )
    pairing = protocol.eval_set.pairing
    for kind, digest in (("dataset", pairing.dataset_digest), ("masks", pairing.digest)):
        if digest != evaluation[f"{kind}_digest"]:
            raise UserError(
                f"{evaluation[kind]}: the digest of the {kind} is {digest[:12]} now, and the version was evaluated on "
                f"{str(evaluation[f'{kind}_digest'])[:12]}; evaluate the version again"
            )
    return protocol
