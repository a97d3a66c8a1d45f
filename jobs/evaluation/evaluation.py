"""Evaluations: means by hole ratio with their intervals, what a model costs, and how two models differ.

Every model of a comparison is measured on the same list of pairs (pairing.py), so differences are taken pair by pair.
An evaluation is the JSON object that gates judge and versions carry. Not here: measuring (scoring.py), showing
(report.py and its pages).
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from isnet.mask_files import Loading
from isnet.masks import GENERATORS
from isnet.metrics import METRICS, Definition
from isnet.training.memory import inference_bytes
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import locate_masks
from jobs.evaluation.models import Model
from jobs.evaluation.pairs import pair_up
from jobs.evaluation.scores import ALL_BINS, Bench, Score, scores_here, scores_on_ray
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.registry import significance
from trainplane.storage import open_store

BETTER = {"psnr": "higher", "ssim": "higher", "l1_percent": "lower", "l1_hole": "lower"}


@dataclass(frozen=True)
class Protocol:
    """What every model of a comparison is measured with. name, masks: as the user called dataset and masks."""

    name: str
    masks: str
    bench: Bench

    @property
    def dataset(self) -> Dataset:
        return self.bench.dataset


@dataclass(frozen=True)
class Measured:
    """A model's evaluation and the scores it was made of."""

    model: Model
    evaluation: dict[str, Any]
    scores: list[Score]


def protocol(
    context: Context,
    dataset: str,
    *,
    masks: str,
    size: int,
    seed: int = 0,
    definition: str = "isnet",
    loading: Loading = "nearest",
    pictures: int | None = None,
) -> Protocol:
    """The protocol for a dataset and masks by name or address; its list is put into the store. `size` in pixels."""
    if size < 16:
        raise UserError(f"size {size} is too small to measure on; need at least 16 pixels")
    if seed < 0:
        raise UserError(f"seed {seed} is negative; need 0 or more")
    ensure_demo_datasets([dataset], context)
    found = Dataset.open(context.dataset(dataset))
    if found.manifest.packed.get("kind") == "masks":
        raise UserError(f"{dataset!r} holds masks, not pictures; name the pictures first and these with --masks")
    if not found.num_samples:
        raise UserError(f"{dataset!r} holds no picture; pack some and evaluate on those")
    address, _ = locate_masks(masks, context)
    mask_set = None if masks in GENERATORS else Dataset.open(address)
    if mask_set is not None and not mask_set.num_samples:
        raise UserError(f"masks {masks!r} hold no mask; pack some with `isnet data pack … --kind masks`")
    pairing = pair_up(found, masks=masks, mask_set=mask_set, size=size, seed=seed, loading=loading, pictures=pictures)
    pairing.keep(open_store(context.artifacts))
    return Protocol(dataset, masks, Bench(found, mask_set, pairing, cast("Definition", definition)))


def evaluate_model(model: Model, rules: Protocol) -> dict[str, Any]:
    """Means by ratio bin and over all: {model, dataset_digest, masks_digest, definition, bins: {"10-20": {…, n}}}."""
    return measure_model(model, rules).evaluation


def measure_model(model: Model, rules: Protocol, *, context: Context | None = None, tasks: int = 0) -> Measured:
    """Evaluation and scores, in this process or (`tasks` above 0) as Ray tasks that open the model in `context`."""
    if tasks:
        assert context is not None, "tasks open the model by its address"
        scores = scores_on_ray(model, rules.bench, context, tasks=tasks)
    else:
        scores = scores_here(model, rules.bench)
    return Measured(model, summary(model, rules, scores), scores)


def summary(model: Model, rules: Protocol, scores: Sequence[Score]) -> dict[str, Any]:
    """The evaluation that these scores make."""
    pairing, mask_set = rules.bench.pairing, rules.bench.mask_set
    groups = by_bin(scores)
    return {
        "model": model.address,
        "version": model.pinned,
        "dataset": rules.name,
        "dataset_digest": pairing.dataset_digest,
        "masks_digest": pairing.digest,
        "definition": rules.bench.definition,
        "masks": mask_set.address if mask_set else pairing.masks,
        "loading": pairing.loading,
        "size": pairing.size,
        "seed": pairing.seed,
        "pictures": len({one.picture for one in scores}),
        "bins": {name: _means(group) for name, group in groups.items()},
        "intervals": {name: _intervals(group) for name, group in groups.items()},
        "cost": _cost(model, scores, pairing.size),
        "steps": model.steps,
        "architecture": model.architecture.to_dict() if model.architecture else None,
    }


def by_bin(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """All scores, and those of each bin that has any."""
    groups = {name: [one for one in scores if one.bin == name] for name in ALL_BINS}
    return {"all": list(scores)} | {name: group for name, group in groups.items() if group}


def _means(scores: Sequence[Score]) -> dict[str, float]:
    means = {name: statistics.fmean(getattr(one, name) for one in scores) for name in METRICS}
    return {**means, "ratio": statistics.fmean(one.ratio for one in scores), "n": len(scores)}


def _intervals(scores: Sequence[Score]) -> dict[str, list[float] | None]:
    pictures = [one.picture for one in scores]
    found = {name: significance.interval([getattr(one, name) for one in scores], pictures) for name in METRICS}
    return {name: None if one is None else [one.low, one.high] for name, one in found.items()}


def _cost(model: Model, scores: Sequence[Score], size: int) -> dict[str, float | int | None]:
    """parameters; memory_bytes: weights and computed values at most, reckoned; latency_ms: median of a picture here."""
    # The first prediction of a process prepares itself.
    taken = [one.seconds for one in scores][1:] or [one.seconds for one in scores]
    return {
        "parameters": model.parameters,
        "memory_bytes": inference_bytes(model.architecture, size=size) if model.architecture else None,
        "latency_ms": 1000 * statistics.median(taken),
        "package_bytes": model.package_bytes,
    }


def compare(ours: Sequence[Score], theirs: Sequence[Score]) -> dict[str, dict[str, dict[str, Any]]]:
    """{bin: {metric: paired comparison}} of two models' scores on one list of pairs; the bins are those of `ours`.

    Raises `RunFailed` where the scores are of different holes: the list or its masks changed in between.
    """
    if [(one.pair, one.hole_crc32) for one in ours] != [(one.pair, one.hole_crc32) for one in theirs]:
        raise RunFailed("the two were measured on different pictures or holes; evaluate both again on the same set")
    other = {one.pair: one for one in theirs}
    return {
        name: {metric: _compared(group, [other[one.pair] for one in group], metric) for metric in METRICS}
        for name, group in by_bin(ours).items()
    }


def _compared(ours: Sequence[Score], theirs: Sequence[Score], metric: str) -> dict[str, Any]:
    """Ours minus theirs; p_better: the chance of a gain at least so large if there were none."""
    found = significance.compare(
        [getattr(one, metric) for one in ours],
        [getattr(one, metric) for one in theirs],
        [one.picture for one in ours],
    )
    fields = {name: value for name, value in asdict(found).items() if name != "interval"}
    is_higher = BETTER[metric] == "higher"
    return {
        **fields,
        "interval": None if found.interval is None else [found.interval.low, found.interval.high],
        "p_better": found.p_greater if is_higher else found.p_less,
        "p_value": found.p_value,
    }
