"""Evaluations: means by hole ratio, intervals, costs, comparisons.

All models of a comparison are measured on the same list of pairs, so differences are computed pair by pair. An
evaluation is a JSON object: gates read it, and model versions keep it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from isnet.inference.predictor import Refine
from isnet.mask_files import Loading
from isnet.masks import GENERATORS
from isnet.metrics import Definition
from isnet.training.memory import inference_bytes
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import locate_masks
from jobs.evaluation.models import Model
from jobs.evaluation.pairs import pair_up
from jobs.evaluation.perceptual import Networks, check_pictures, distances_by_bin, open_networks
from jobs.evaluation.scores import ALL_BINS, EvalSet, Score, measured_metrics, score_here, score_on_ray
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.manifest import Dataset
from trainplane.data.named import open_dataset
from trainplane.errors import RunFailed, UserError
from trainplane.registry import significance
from trainplane.storage import open_store

if TYPE_CHECKING:
    from isnet.metrics_perceptual import Backbone

# Direction in which each metric improves.
BETTER = {
    "psnr": "higher",
    "ssim": "higher",
    "l1_percent": "lower",
    "l1_hole": "lower",
    "lpips": "lower",
    "fid": "lower",
    "p_ids": "higher",
    "u_ids": "higher",
}


@dataclass(frozen=True)
class Protocol:
    """Data and settings shared by all models of a comparison."""

    name: str  # dataset, as typed
    masks: str  # generator or mask dataset, as typed
    eval_set: EvalSet
    networks: Networks | None = None  # of LPIPS and FID, where they are measured

    @property
    def dataset(self) -> Dataset:
        """Dataset of the pictures."""
        return self.eval_set.dataset


@dataclass(frozen=True)
class Measurement:
    """An evaluation and its scores on one list of pairs."""

    evaluation: dict[str, Any]
    scores: list[Score]


def make_protocol(
    context: Context,
    dataset: str,
    *,
    masks: str,
    size: int,
    seed: int = 0,
    definition: str = "isnet",
    also: Sequence[str] = (),
    loading: Loading = "nearest",
    pictures: int | None = None,
    lpips: Backbone | None = None,
    fid: bool = False,
    refine: Refine = "off",
) -> Protocol:
    """Pairs a dataset with masks and stores the list.

    Args:
        context: resolves names of datasets; its artifact store keeps the list.
        dataset: name or address of the held-out pictures.
        masks: generator, or name or address of a mask dataset.
        size: side of the evaluated square, at least 16 pixels.
        seed: of the pairing, 0 or more.
        definition: of the metrics, see `isnet.metrics`.
        also: further definitions, by which the same predictions are measured.
        loading: how mask files are resized.
        pictures: number of pictures, taken evenly over the dataset; None takes all.
        lpips: backbone of LPIPS; None for no LPIPS.
        fid: whether to measure FID, P-IDS and U-IDS.
        refine: "auto" fills coarse to fine, as `isnet inpaint` does; "off" at the square's own scale.
    """
    if size < 16:
        raise UserError(f"size {size} is too small to measure on; need at least 16 pixels")
    if seed < 0:
        raise UserError(f"seed {seed} is negative; need 0 or more")
    # Open the pictures.
    ensure_demo_datasets([dataset], context)
    picture_set = open_dataset(dataset, context)
    if picture_set.manifest.packed.get("kind") == "masks":
        raise UserError(f"{dataset!r} holds masks, not pictures; name the pictures first and these with --masks")
    if not picture_set.num_samples:
        raise UserError(f"{dataset!r} holds no picture; pack some and evaluate on those")
    # Open the masks; `locate_masks` refuses a dataset of pictures.
    address, _ = locate_masks(masks, context)
    mask_set = None if masks in GENERATORS else Dataset.open(address)
    if mask_set is not None and not mask_set.num_samples:
        packing = command_line("data", "pack", "SRC", "NAME", "--kind", "masks")
        raise UserError(f"masks {masks!r} hold no mask; pack some with `{packing}`")
    # Open the networks of further metrics before anything is stored.
    check_pictures(min(picture_set.num_samples, pictures or picture_set.num_samples), size, backbone=lpips, fid=fid)
    networks = open_networks(lpips, fid=fid)
    # Pair them, and store the list under its digest.
    pairing = pair_up(
        picture_set, masks=masks, mask_set=mask_set, size=size, seed=seed, loading=loading, pictures=pictures
    )
    pairing.save(open_store(context.artifacts))
    definitions = cast("tuple[Definition, ...]", (definition, *also))
    eval_set = EvalSet(picture_set, mask_set, pairing, definitions[0], definitions[1:], refine)
    return Protocol(dataset, masks, eval_set, networks)


def measure_model(model: Model, protocol: Protocol, *, context: Context | None = None, tasks: int = 0) -> Measurement:
    """Scores a model here, or in `tasks` Ray tasks."""
    model = model.with_refine(protocol.eval_set.refine)
    if tasks:
        # Tasks open the model by its address, so they need the context.
        assert context is not None, "tasks open the model by its address"
        scored = score_on_ray(model, protocol.eval_set, context, tasks=tasks, networks=protocol.networks)
    else:
        scored = score_here(model, protocol.eval_set, protocol.networks)
    scores, *further = (list(column) for column in zip(*(pair.scores for pair in scored), strict=True))
    also = dict(zip(protocol.eval_set.also, further, strict=True))
    evaluation = summarize(model, protocol, scores, also=also)
    if protocol.networks is not None:
        evaluation["perceptual"] = list(protocol.networks.names)
    # FID is one figure for many pairs, so it has no interval and no score of a pair.
    features = [pair.features for pair in scored if pair.features is not None]
    if features:
        bins = [score.bin for score in scores]
        for name, distances in distances_by_bin(bins, features, groups=list(evaluation["bins"])).items():
            evaluation["bins"][name] |= distances
    return Measurement(evaluation, scores)


def summarize(
    model: Model, protocol: Protocol, scores: Sequence[Score], *, also: Mapping[str, Sequence[Score]] | None = None
) -> dict[str, Any]:
    """Summarises scores as an evaluation.

    Args:
        model: that was measured.
        protocol: pictures and holes.
        scores: by the protocol's definition.
        also: scores of the same predictions by other definitions.

    Returns:
        {model, dataset_digest, masks_digest, definition, bins: {"10-20": {psnr, …, n}}, intervals, cost, …}; with
        `also` as well {definition: {bins, intervals}} under that name.
    """
    pairing, mask_set = protocol.eval_set.pairing, protocol.eval_set.mask_set
    # These keys are stored with versions and read by gates.
    return {
        "model": model.address,
        "version": model.pinned,
        "dataset": protocol.name,
        "dataset_digest": pairing.dataset_digest,
        "masks_digest": pairing.digest,
        "definition": protocol.eval_set.definition,
        "masks": mask_set.address if mask_set else pairing.masks,
        "loading": pairing.loading,
        **({} if protocol.eval_set.refine == "off" else {"refine": protocol.eval_set.refine}),
        "size": pairing.size,
        "seed": pairing.seed,
        "pictures": len({score.picture for score in scores}),
        **_summary(scores),
        **({"also": {name: _summary(others) for name, others in also.items()}} if also else {}),
        "cost": _cost(model, scores, pairing.size),
        "steps": model.steps,
        "architecture": model.architecture.to_dict() if model.architecture else None,
    }


def _summary(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    groups = group_by_bin(scores)
    return {
        "bins": {name: _means(group) for name, group in groups.items()},
        "intervals": {name: _intervals(group) for name, group in groups.items()},
    }


def group_by_bin(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """Groups scores: all, and each bin with scores."""
    groups = {name: [score for score in scores if score.bin == name] for name in ALL_BINS}
    return {"all": list(scores)} | {name: group for name, group in groups.items() if group}


def _means(scores: Sequence[Score]) -> dict[str, float]:
    means = {name: statistics.fmean(getattr(score, name) for score in scores) for name in measured_metrics(scores)}
    return {**means, "ratio": statistics.fmean(score.ratio for score in scores), "n": len(scores)}


def _intervals(scores: Sequence[Score]) -> dict[str, list[float] | None]:
    # Resampled by picture: pairs of one picture are not independent.
    pictures = [score.picture for score in scores]
    intervals = {
        name: significance.interval([getattr(score, name) for score in scores], pictures)
        for name in measured_metrics(scores)
    }
    return {name: None if ends is None else [ends.low, ends.high] for name, ends in intervals.items()}


def _cost(model: Model, scores: Sequence[Score], size: int) -> dict[str, float | int | None]:
    # Without the first prediction of the process, which includes initialisation.
    seconds = [score.seconds for score in scores][1:] or [score.seconds for score in scores]
    return {
        "parameters": model.parameters,
        # An estimated maximum of weights and activations.
        "memory_bytes": inference_bytes(model.architecture, size=size) if model.architecture else None,
        "latency_ms": 1000 * statistics.median(seconds),  # of a picture on this machine
        "package_bytes": model.package_bytes,
    }


def compare(
    ours: Sequence[Score], theirs: Sequence[Score], *, bins: Sequence[str] | None = None
) -> dict[str, dict[str, dict[str, Any]]]:
    """Compares two models pair by pair; ours minus theirs.

    `bins` names those that are compared; None: all.

    Returns:
        {bin: {metric: comparison}} by the bins of ours.

    Raises:
        RunFailed: the holes differ, because the dataset or its masks were changed between the measurements.
    """
    # Checksums, because masks may have been replaced under the same name.
    if [(score.pair, score.hole_crc32) for score in ours] != [(score.pair, score.hole_crc32) for score in theirs]:
        raise RunFailed("the two were measured on different pictures or holes; evaluate both again on the same set")
    theirs_by_pair = {score.pair: score for score in theirs}
    return {
        name: {
            metric: _compare_metric(group, [theirs_by_pair[score.pair] for score in group], metric)
            for metric in measured_metrics(group)
        }
        for name, group in group_by_bin(ours).items()
        if bins is None or name in bins
    }


def _compare_metric(ours: Sequence[Score], theirs: Sequence[Score], metric: str) -> dict[str, Any]:
    comparison = significance.compare(
        [getattr(score, metric) for score in ours],
        [getattr(score, metric) for score in theirs],
        [score.picture for score in ours],
    )
    numbers = {name: value for name, value in asdict(comparison).items() if name != "interval"}
    ends, is_higher = comparison.interval, BETTER[metric] == "higher"
    return {
        **numbers,
        "interval": None if ends is None else [ends.low, ends.high],
        # Probability of an improvement of at least this size if the models were equally good.
        "p_better": comparison.p_greater if is_higher else comparison.p_less,
        "p_value": comparison.p_value,
    }
