"""Everything that is settled before the first step: datasets, which run this is, where it is recorded.

What can be refused is refused here, before anything costs money: a dataset without a manifest, a store that cannot be
written, a tracking address that does not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from trainplane.cluster.context import Context
from trainplane.config import RunConfig, flatten
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.storage import StorageError, open_store
from trainplane.task import load_task
from trainplane.tracking import lineage
from trainplane.tracking.client import client_for
from trainplane.tracking.run import RunHandle, find_or_create_run
from trainplane.train.identity import RunPlace, exclusive, find_place, run_key, take_place
from trainplane.train.job import Job, TrackingTarget
from trainplane.train.resume import check_goes_on
from trainplane.train.retention import Rules, check_metric


@dataclass(frozen=True)
class Prepared:
    """A run that may start."""

    config: RunConfig
    job: Job
    place: RunPlace
    run: RunHandle
    dataset_digest: str
    val_digest: str | None


@contextmanager
def prepared_run(
    config: RunConfig,
    context: Context,
    *,
    fresh: bool = False,
    parent_run_id: str | None = None,
    record_key: str | None = None,
    run_name: str | None = None,
    tags: Mapping[str, str] | None = None,
    explored: Collection[str] = (),
    may_start: Callable[[int], None] = lambda done: None,
) -> Iterator[Prepared]:
    """Settle `config` in `context`, and hold the run for this process alone; `UserError` for what would stop it later.

    `explored` names the settings that a search varies, dotted. `record_key` is what the MLflow run is known by where
    that is not what it learns from what: a trial whose settings change on the way stays one run. `may_start` is asked
    with the steps that the run has behind it, before anything is written or recorded, and raises what stands in the
    way.
    """
    train_data = Dataset.open(context.dataset(config.data.train))
    val_data = Dataset.open(context.dataset(config.data.val)) if config.data.val else None
    check_enough(config, train_data)
    _check_best(config)
    val_digest = val_data.digest if val_data else None
    key = run_key(config, train_data.digest, val_digest)
    try:
        place = find_place(config, key=key, checkpoints=context.checkpoints, fresh=fresh)
    except StorageError as error:
        raise UserError(
            f"the store of checkpoints does not answer ({error}); mend it or name another one, then run `isnet doctor`"
        ) from error
    # Held before MLflow hears of it: a second process must not touch the record of a run that is training.
    with exclusive(context.home, place.folder, doing=f"training {place.folder}"):
        may_start(check_goes_on(open_store(place.address), config, dataset_digest=train_data.digest))
        take_place(place, config)
        run = _start(
            config, context, place, train_data, val_data, parent_run_id, record_key, run_name, tags or {}, explored
        )
        job = Job(
            config=config.model_dump(mode="json"),
            train_data=train_data.address,
            val_data=val_data.address if val_data else None,
            checkpoints=place.address,
            tracking=TrackingTarget(context.tracking, run.run_id, str(context.home / "spool" / run.run_id)),
        )
        yield Prepared(config, job, place, run, train_data.digest, val_digest)


def _start(
    config: RunConfig,
    context: Context,
    place: RunPlace,
    train_data: Dataset,
    val_data: Dataset | None,
    parent_run_id: str | None,
    record_key: str | None,
    run_name: str | None,
    tags: Mapping[str, str],
    explored: Collection[str],
) -> RunHandle:
    """The MLflow run of this place, running, with what it is made of."""
    run = find_or_create_run(
        context.tracking,
        config.tracking.experiment,
        # A trial of a search is a child of its search, and never the same run as one started by hand.
        run_key=record_key or (place.key if parent_run_id is None else f"{parent_run_id}.{place.key}"),
        run_name=run_name or place.folder,
        parent_run_id=parent_run_id,
        artifact_root=context.artifacts,
        tags={
            "trainplane.checkpoints": place.address,
            "trainplane.config_digest": config.digest(),
            "trainplane.dataset_digest": train_data.digest,
            **({"trainplane.val_digest": val_data.digest} if val_data else {}),
            "mlflow.user": lineage.user(),
            "mlflow.source.name": "isnet train",
            "mlflow.note.content": _note(config, train_data, val_data),
            **lineage.code_tags(),
            **tags,
        },
    )
    _record(config, context, run, train_data, val_data, explored)
    return run


def _record(
    config: RunConfig,
    context: Context,
    run: RunHandle,
    train: Dataset,
    val: Dataset | None,
    explored: Collection[str],
) -> None:
    """Settings and lineage, once a run: MLflow's parameters never change, and neither does what a run is."""
    for dataset, purpose in ((train, "training"), (val, "validation")):
        if dataset is not None:
            lineage.log_dataset(
                context.tracking,
                run.run_id,
                name=dataset.name,
                digest=dataset.digest,
                address=dataset.address,
                context=purpose,
            )
    if run.resumed:
        return
    client = client_for(context.tracking)
    from mlflow.entities import Param

    params = [Param(key, str(value)[:6000]) for key, value in headline(config, explored).items()]
    client.log_batch(run.run_id, params=params)
    client.log_dict(run.run_id, config.model_dump(mode="json"), "config.json")
    client.log_dict(run.run_id, lineage.facts(), "lineage.json")
    if diff := lineage.code_diff():
        client.log_text(run.run_id, diff, "code.diff")


def _note(config: RunConfig, train: Dataset, val: Dataset | None) -> str:
    """What people read first on a run's page."""
    held_out = f", measured on {val.num_samples} of {val.name!r}" if val else ""
    return (
        f"{config.train.steps} steps of {config.train.global_batch} pictures of {train.name!r} "
        f"({train.num_samples} samples){held_out}. Parameters are the settings that differ from the defaults; "
        "config.json has all, lineage.json says what code and machine."
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
        check_metric(Rules.of(config.train), [f"val/{name}" for name in names])


def check_enough(config: RunConfig, dataset: Dataset) -> None:
    """`UserError` where the dataset does not fill one global batch."""
    if dataset.num_samples < config.train.global_batch:
        raise UserError(
            f"dataset {dataset.name!r} has {dataset.num_samples} pictures, fewer than one global batch of "
            f"{config.train.global_batch}; pack more pictures, or set train.global_batch={dataset.num_samples}"
        )
