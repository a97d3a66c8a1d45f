"""Everything that is settled before the first step: datasets, which run this is, where it is recorded.

What can be refused is refused here, before anything costs money: a dataset without a manifest, a store that cannot be
written, a tracking address with a wrong password or without an MLflow. One where nobody answers stops no run, unless
`tracking.require` says so: it is recorded here until somebody does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainplane.cluster.context import Context
from trainplane.config.canonical import flatten
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.storage import StorageError, open_store
from trainplane.task import Task, load_task
from trainplane.tracking import lineage
from trainplane.tracking.run_id import Birth, is_reserved
from trainplane.tracking.runs import Facts, RunHandle, Status, begin_run, close_run, held, note
from trainplane.tracking.spool.meta import read_about
from trainplane.tracking.tracker import NullTracker, Recorder, Tracker
from trainplane.train.checkpoint.resume import check_resumable
from trainplane.train.checkpoint.retention import RetentionRules, check_metric
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import RunDir, exclusive, find_run_dir, register_run_dir, run_key
from trainplane.train.spec import TrackingTarget, TrainJob
from trainplane.train.world import World

_LEGEND = """| curves | |
|---|---|
| `val/` | the held-out pictures, the same at every validation; the gallery shows some of them |
| `train/`, `epoch/` | recorded steps, and their means over an epoch |
| `live/` | steps that no checkpoint is behind yet, of every attempt |
| `system/`, `time/` | what the machine did |
"""


@dataclass(frozen=True)
class PreparedRun:
    """A run that may start."""

    config: RunConfig
    job: TrainJob
    run_dir: RunDir
    run: RunHandle
    dataset_digest: str
    val_digest: str | None

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, as soon as it is known here; until then the reserved one."""
        target = self.job.tracking
        assert target is not None
        return read_about(Path(target.spool)).run_id

    def note(self, tags: Mapping[str, str], texts: Mapping[str, str]) -> int:
        """Record tags and small files of a run that nobody records right now; returns what waits for MLflow."""
        target = self.job.tracking
        assert target is not None
        return note(target.server, self.run.run_id, spool=Path(target.spool), tags=tags, texts=texts)

    def end(self, status: Status, tags: Mapping[str, str]) -> int:
        """Record how the run ended, here or as soon as MLflow answers; returns what waits for it. Never raises for it.

        Call it once nothing records the run any more.
        """
        target = self.job.tracking
        assert target is not None
        return close_run(target.server, self.run.run_id, status, tags, spool=Path(target.spool))


@contextmanager
def prepared_run(
    config: RunConfig,
    context: Context,
    *,
    fresh: bool = False,
    parent_run_id: str | None = None,
    record_key: str | None = None,
    run_name: str | None = None,
    label: str = "",
    tags: Mapping[str, str] | None = None,
    explored: Collection[str] = (),
    may_start: Callable[[int], None] = lambda done: None,
) -> Iterator[PreparedRun]:
    """Settle `config` in `context`, and hold the run for this process alone; `UserError` for what would stop it later.

    `explored` names the settings that a search varies, dotted. `label` stands beside the name of the folder where
    people read it. `record_key` is what the MLflow run is known by where that is not what it learns from what: a trial
    whose settings change on the way stays one run. `may_start` is asked with the steps that the run has behind it,
    before anything is written or recorded, and raises what stands in the way.
    """
    train_data = Dataset.open(context.dataset(config.data.train))
    val_data = Dataset.open(context.dataset(config.data.val)) if config.data.val else None
    check_fills_batch(config, train_data)
    _check_best(config)
    val_digest = val_data.digest if val_data else None
    key = run_key(config, train_data.digest, val_digest)
    try:
        place = find_run_dir(config, key=key, checkpoints=context.checkpoints, fresh=fresh)
    except StorageError as error:
        raise UserError(
            f"the store of checkpoints does not answer ({error}); mend it or name another one, then run `isnet doctor`"
        ) from error
    # Held before MLflow hears of it: a second process must not touch the record of a run that is training.
    with exclusive(context.home, place.folder, doing=f"training {place.folder}"):
        may_start(check_resumable(open_store(place.address), config, train_data))
        register_run_dir(place, config)
        # A trial of a search is a child of its search, and never the same run as one started by hand.
        known_by = record_key or (place.key if parent_run_id is None else f"{parent_run_id}.{place.key}")
        birth = Birth(
            config.tracking.experiment,
            run_key=known_by,
            run_name=run_name or f"{place.folder} {label}".strip(),
            parent_run_id=parent_run_id,
            artifact_root=context.artifacts,
            tags={**_tags(config, place, train_data, val_data), **(tags or {})},
        )
        spool = context.home / "spool" / birth.reserved_id
        facts = _facts(config, {"training": train_data, "validation": val_data}, explored)
        run = begin_run(context.tracking_server, birth, facts, spool=spool, require=config.tracking.require)
        job = TrainJob(
            config=config.model_dump(mode="json"),
            train_data=train_data.address,
            val_data=val_data.address if val_data else None,
            checkpoints=place.address,
            tracking=TrackingTarget(
                context.tracking, run.run_id, str(spool), birth.to_json() if is_reserved(run.run_id) else None
            ),
            train_digest=train_data.digest,
            val_digest=val_digest,
        )
        with held(context.tracking_server, run.run_id, home=context.home, spool=spool):
            yield PreparedRun(config, job, place, run, train_data.digest, val_digest)


def _tags(config: RunConfig, place: RunDir, train_data: Dataset, val_data: Dataset | None) -> dict[str, str]:
    """What identifies the parts that the run is made from."""
    held_out = {}
    if val_data is not None:
        held_out = {"trainplane.val_digest": val_data.digest, "trainplane.dataset.validation": val_data.digest}
    return {
        "trainplane.checkpoints": place.address,
        "trainplane.config_digest": config.digest(),
        "trainplane.dataset_digest": train_data.digest,
        "trainplane.dataset.training": train_data.digest,
        **held_out,
        "mlflow.user": lineage.user(),
        "mlflow.source.name": "isnet train",
        "mlflow.note.content": _note(config, train_data, val_data),
        **lineage.code_tags(),
    }


def _facts(config: RunConfig, datasets: Mapping[str, Dataset | None], explored: Collection[str]) -> Facts:
    """Settings and lineage, recorded once a run: MLflow's parameters never change, and neither does what a run is."""
    texts = {"config.json": _json(config.model_dump(mode="json")), "lineage.json": _json(lineage.facts())}
    if diff := lineage.code_diff():
        texts["code.diff"] = diff
    inputs = {
        purpose: lineage.dataset_input(name=dataset.name, digest=dataset.digest, address=dataset.address)
        for purpose, dataset in datasets.items()
        if dataset is not None
    }
    return Facts({key: str(value)[:6000] for key, value in headline(config, explored).items()}, texts, inputs)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _note(config: RunConfig, train: Dataset, val: Dataset | None) -> str:
    """What people read first on a run's page."""
    held_out = f", measured on {val.num_samples} of `{val.name}`" if val else ""
    return (
        f"**{config.train.steps} steps of {config.train.global_batch} pictures** of `{train.name}` "
        f"({train.num_samples} samples){held_out}.\n\n"
        "Parameters are the settings that differ from the defaults; `config.json` has all of them, `lineage.json` says "
        f"what code and machine, `isnet runs reproduce` writes how to run it again.\n\n{_LEGEND}"
    )


def headline(config: RunConfig, explored: Collection[str]) -> dict[str, Any]:
    """The settings worth a parameter: what differs from the defaults, the length, and what a search explores.

    MLflow's pages print every parameter above each picture of a gallery; with all of them nobody finds the pictures.
    """
    everything, special = flatten(config.model_dump(mode="json")), flatten(config.special())
    shown = {*special, *explored, "train.steps"}
    return {name: value for name, value in everything.items() if name in shown}


def _check_best(config: RunConfig) -> None:
    """`UserError` where the best checkpoints are to be kept by what is never measured, as far as that is known now."""
    names = load_task(config.task).measured(config) if config.data.val else []
    if names is not None:
        check_metric(RetentionRules.of(config.train), [f"val/{name}" for name in names])


def check_fills_batch(config: RunConfig, dataset: Dataset) -> None:
    """`UserError` where the dataset does not fill one global batch."""
    if dataset.num_samples < config.train.global_batch:
        raise UserError(
            f"dataset {dataset.name!r} has {dataset.num_samples} pictures, fewer than one global batch of "
            f"{config.train.global_batch}; pack more pictures, or set train.global_batch={dataset.num_samples}"
        )


# A rank that was cut off with its node, where nodes share a disk, lives on until Ray there gives up its head: a minute,
# and twice that on a busy machine.
PREDECESSOR_S = 240.0


def device_of(config: RunConfig) -> torch.device:
    wants = config.train.use_gpu
    if wants is True and not torch.cuda.is_available():
        raise UserError("train.use_gpu=true and this machine has no GPU; set train.use_gpu=auto or false")
    return torch.device("cuda" if wants and torch.cuda.is_available() else "cpu")


def loader_of(dataset: Dataset, config: RunConfig, task_class: type[Task], world: World) -> Loader:
    return Loader(
        dataset,
        transform=task_class.transform_of(config),
        seed=config.train.seed,
        global_batch=config.train.global_batch,
        rank=world.rank,
        world=world.size,
        workers=config.data.loader_workers,
        prefetch=config.data.prefetch,
        on_damage=config.data.on_damage,
        damage_budget=config.data.damage_budget,
    )


def tracker_of(job: TrainJob, world: World) -> Recorder:
    """Rank 0 records; the others have a tracker that does nothing, so that no call site asks who it is."""
    if job.tracking is None or not world.is_first:
        return NullTracker()
    birth = Birth(**job.tracking.birth) if job.tracking.birth else None
    target = job.tracking
    return Tracker(target.server, target.run_id, spool=target.spool, birth=birth, patience_s=PREDECESSOR_S)


def step_seed(seed: int, index: int, rank: int) -> int:
    """A generator seed that differs for every (seed, step, rank): splitmix64's finaliser over the three."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) & ((1 << 63) - 1)
