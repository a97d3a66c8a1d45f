"""Prepares a run: datasets, run folder, lock, record.

Every detectable mistake is refused here, before the run costs money. A tracking server that does not answer stops a run
only with `tracking.require`; otherwise the run is recorded on this disk until the server answers. The second half makes
the parts of one rank: device, loader, recorder, and the seed of each step.
"""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.load.loader import Loader
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import TrainingData, datasets_of
from trainplane.data.named import open_dataset
from trainplane.data.training_data import addresses_of, check_fills_batch, open_training_data
from trainplane.errors import CLI, UserError
from trainplane.storage import StorageError, open_store
from trainplane.task import Task, load_task
from trainplane.tracking import lineage
from trainplane.tracking.client import TrackingServer, reason
from trainplane.tracking.heartbeat import hold_lease
from trainplane.tracking.pages import write_view
from trainplane.tracking.run_id import RunSpec, is_reserved
from trainplane.tracking.runs import RunHandle, RunMetadata, annotate_run, close_run, start_run
from trainplane.tracking.spool.meta import read_meta
from trainplane.tracking.tracker import Recorder, Status, Tracker
from trainplane.train import run_page
from trainplane.train.batch_size import BatchSplit, memory_limit, split_batch
from trainplane.train.checkpoint.resume import check_resumable
from trainplane.train.checkpoint.retention import RetentionRules, check_metric
from trainplane.train.launch.wait_log import ended_wait_tags
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import RunDir, exclusive, find_run_dir, register_run_dir, run_key
from trainplane.train.run_page import Typed
from trainplane.train.spec import TrackingTarget, TrainJob
from trainplane.train.start.grown import check_said, located_growth
from trainplane.train.start.prepare import PreparedStart, located_start, prepare_start, run_with_another_start
from trainplane.train.start.weights import StartReport
from trainplane.train.world import World

logger = logging.getLogger(__name__)

# Weights of a model of which two fit anywhere.
SMALL_MODEL_BYTES = 2**26


@dataclass(frozen=True)
class PreparedRun:
    """A run that is ready to start."""

    config: RunConfig
    job: TrainJob
    run_dir: RunDir
    run: RunHandle
    dataset_digest: str
    val_digest: str | None
    description: str  # Text at the top of the run's page
    done: int  # steps of the newest checkpoint, 0 without one
    start: StartReport | None = None  # Where a new run begins, if not at fresh weights
    instead_of: str = ""  # A run that differs in its start only, and is not this one

    @property
    def run_id(self) -> str:
        """MLflow's id of the run, or its reserved id."""
        return read_meta(Path(self._target.spool)).run_id

    @property
    def _target(self) -> TrackingTarget:
        assert self.job.tracking is not None, "set by prepared_run"
        return self.job.tracking

    def note(self, tags: Mapping[str, str], texts: Mapping[str, str]) -> int:
        """Records tags and texts of idle runs; returns records left."""
        target = self._target
        return annotate_run(target.server, self.run.run_id, spool=Path(target.spool), tags=tags, texts=texts)

    def end(self, status: Status, tags: Mapping[str, str]) -> int:
        """Records the exit status, now or when MLflow answers.

        Call it after the tracker's end. Returns the number of records that wait for MLflow; an unreachable server
        raises nothing.
        """
        target = self._target
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
    typed: Typed | None = None,
    tags: Mapping[str, str] | None = None,
    explored: Collection[str] = (),
    may_start: Callable[[int], None] = lambda done: None,
) -> Iterator[PreparedRun]:
    """Prepares a run and locks it during the block.

    Args:
        config: Configuration of the run.
        context: Names of datasets, stores and the tracking server.
        fresh: True starts a new run although there is one of the same key.
        parent_run_id: MLflow run of the search that this trial belongs to.
        record_key: Key of the MLflow run; None: the run key. A trial whose settings change stays one MLflow run.
        run_name: Name of the MLflow run; None: what was typed, else the folder's name.
        typed: Words that the user typed; None: another program starts the run.
        tags: Additional tags of the MLflow run.
        explored: Dotted names of the settings that a search varies.
        may_start: Called with the steps done before anything is written; raises to refuse the start.
    """
    # Datasets, and checks that need no store of checkpoints.
    batch = config.train.global_batch
    train_data = open_training_data(config.data.train, config.data.mix, context, global_batch=batch)
    val_data = open_dataset(config.data.val, context) if config.data.val else None
    val_sets = {name: open_dataset(typed, context) for name, typed in config.data.val_sets.items()}
    check_fills_batch(train_data, global_batch=batch)
    _check_best(config)
    load_task(config.task).check(config)
    val_digest = val_data.digest if val_data else None
    # Identity and folder of the run. Where it begins is part of its identity.
    config = located_growth(located_start(config, context), context, train_data, val_data)
    key = run_key(config, train_data.digest, val_digest)
    try:
        run_dir = find_run_dir(config, key=key, checkpoints=context.checkpoints, fresh=fresh)
    except StorageError as error:
        raise UserError(
            f"the store of checkpoints does not answer ({error}); mend it or name another one, then run "
            f"`{command_line('doctor')}`"
        ) from error
    # Lock first, record later: a second process must not touch the record of a run that is training.
    with exclusive(context.home, run_dir.folder, doing=f"training {run_dir.folder}"):
        done = check_resumable(open_store(run_dir.address), config, train_data)
        may_start(done)
        if done == 0 and not fresh and parent_run_id is None:
            check_said(config, context, train_data, val_data)
        start = prepare_start(config, context, run_dir, train_data)
        others = (config, context, train_data.digest, val_digest)
        instead_of = run_with_another_start(*others) if start is not None and done == 0 else ""
        read = [*datasets_of(train_data), *([val_data] if val_data else []), *val_sets.values()]
        register_run_dir(run_dir, config, {dataset.digest for dataset in read})
        if start is not None:
            start.write()
            done = max(done, start.report.step or 0)
        # MLflow run. A trial is a child of its search, and never the same run as one that a user started.
        mlflow_key = record_key or (run_dir.key if parent_run_id is None else f"{parent_run_id}.{run_dir.key}")
        further = {
            **_mixed(config, train_data, context),
            **{f"validation.{name}": dataset for name, dataset in val_sets.items()},
        }
        set_tags = {f"trainplane.dataset.{purpose}": dataset.digest for purpose, dataset in further.items()}
        run_spec = RunSpec(
            config.tracking.experiment,
            run_key=mlflow_key,
            run_name=run_name or (run_page.run_name(typed) if typed else run_dir.folder),
            parent_run_id=parent_run_id,
            artifact_root=context.artifacts,
            tags={**_tags(config, run_dir, train_data, val_data, typed, start), **set_tags, **(tags or {})},
        )
        spool = context.home / "spool" / run_spec.reserved_id
        datasets = {"training": datasets_of(train_data)[0], "validation": val_data, **further}
        facts = _facts(config, datasets, typed, explored, start)
        run = start_run(context.tracking_server, run_spec, facts, spool=spool, require=config.tracking.require)
        if not run.resumed and run.offline_reason is None:
            _write_view(config, context.tracking_server, run.run_id)
        # Everything that the ranks need, as plain values.
        address, digest, mix = addresses_of(train_data)
        job = TrainJob(
            config=config.model_dump(mode="json"),
            train_data=address,
            val_data=val_data.address if val_data else None,
            checkpoints=run_dir.address,
            tracking=TrackingTarget(
                context.tracking, run.run_id, str(spool), run_spec.to_json() if is_reserved(run.run_id) else None
            ),
            train_digest=digest,
            mix=mix,
            val_digest=val_digest,
            val_sets={name: (dataset.address, dataset.digest) for name, dataset in val_sets.items()},
        )
        with hold_lease(context.tracking_server, run.run_id, home=context.home, spool=spool):
            text = run_spec.tags["mlflow.note.content"]
            report = start.report if start is not None else None
            yield PreparedRun(config, job, run_dir, run, train_data.digest, val_digest, text, done, report, instead_of)


def _write_view(config: RunConfig, server: TrackingServer, run_id: str) -> None:
    """Makes MLflow's table of runs show what matters."""
    headlines = [name for name in load_task(config.task).headlines(config) if name.startswith("val/")]
    try:
        experiment = server.client.get_run(run_id).info.experiment_id
        write_view(server.client, experiment, metrics=headlines, params=[run_page.TYPED, "train.steps"])
    # Only how a page looks: any server may fail in any way here, and the run starts all the same.
    except Exception as error:
        logger.info("the view of the experiment is not written (%s)", reason(error))


def _tags(
    config: RunConfig,
    run_dir: RunDir,
    train_data: TrainingData,
    val_data: Dataset | None,
    typed: Typed | None,
    start: PreparedStart | None,
) -> dict[str, str]:
    """Tags of the MLflow run: digests, addresses, code and user."""
    # Tags of the held-out dataset, if there is one.
    val_tags = {}
    if val_data is not None:
        val_tags = {"trainplane.val_digest": val_data.digest, "trainplane.dataset.validation": val_data.digest}
    return {
        "trainplane.checkpoints": run_dir.address,
        "trainplane.config_digest": config.digest(),
        "trainplane.dataset_digest": train_data.digest,
        "trainplane.dataset.training": datasets_of(train_data)[0].digest,
        **val_tags,
        "mlflow.user": lineage.user(),
        "mlflow.source.name": f"{CLI} train",
        "mlflow.note.content": run_page.description(
            config, train_data, val_data, typed, start=start.report if start is not None else None
        ),
        **({"trainplane.typed": str(typed)} if typed else {}),
        **ended_wait_tags(),
        **(_start_tags(start.report) if start is not None else {}),
        **lineage.code_tags(),
        **lineage.job_tags(),
    }


def _mixed(config: RunConfig, data: TrainingData, context: Context) -> dict[str, Dataset]:
    """Further training datasets by purpose, in the typed order."""
    # A name may be an address, which no tag's name can hold, so they are counted.
    by_digest = {dataset.digest: dataset for dataset in datasets_of(data)}
    typed = (by_digest[open_dataset(name, context).digest] for name in config.data.mix)
    return {f"training.{number}": dataset for number, dataset in enumerate(typed, 2)}


def _start_tags(start: StartReport) -> dict[str, str]:
    """Tags that name the parent of a run."""
    step = {} if start.step is None else {"trainplane.start_step": str(start.step)}
    return {"trainplane.start_from": start.address, "trainplane.start_digest": start.digest, **step}


def _facts(
    config: RunConfig,
    datasets: Mapping[str, Dataset | None],
    typed: Typed | None,
    explored: Collection[str],
    start: PreparedStart | None,
) -> RunMetadata:
    # Settings and lineage, recorded once a run. MLflow's parameters can never change, and neither can the identity of a
    # run.
    # Files of the run, then its datasets.
    addresses = {purpose: dataset.address for purpose, dataset in datasets.items() if dataset is not None}
    texts = {
        "config.json": _json(config.model_dump(mode="json")),
        "lineage.json": _json(lineage.lineage_record(addresses)),
    }
    if diff := lineage.code_diff():
        texts["code.diff"] = diff
    if start is not None:
        texts["start.json"] = _json(start.report.to_json())
    inputs = {
        purpose: lineage.dataset_input(name=dataset.name, digest=dataset.digest, address=dataset.address)
        for purpose, dataset in datasets.items()
        if dataset is not None
    }
    params = {key: str(value) for key, value in run_page.parameters(config, typed, explored).items()}
    return RunMetadata(params, texts, inputs)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _check_best(config: RunConfig) -> None:
    # Raises `UserError` where `train.best_metric` is never measured. A task that cannot name its metrics in advance is
    # checked at the first validation.
    names = load_task(config.task).measured(config) if config.data.val else []
    if names is not None:
        prefixes = ["val/", *(f"val/{name}/" for name in config.data.val_sets)]
        check_metric(RetentionRules.of(config.train), [f"{prefix}{name}" for prefix in prefixes for name in names])


# Seconds to wait until the rank of an earlier attempt releases the spool. Where nodes share a disk, a rank whose node
# was cut off lives until Ray there gives up its head: a minute, and twice that on a busy machine.
PREDECESSOR_S = 240.0


def device_of(config: RunConfig) -> torch.device:
    """Returns this rank's device; `UserError` for a missing GPU."""
    wants = config.train.use_gpu
    if wants is True and not torch.cuda.is_available():
        raise UserError("train.use_gpu=true and this machine has no GPU; set train.use_gpu=auto or false")
    return torch.device("cuda" if wants and torch.cuda.is_available() else "cpu")


def restore_threads(config: RunConfig, threads: int | None) -> None:
    """Sets torch's threads to those that the run started with."""
    # It decides how torch splits sums, and so their last bits.
    if threads and not config.train.threads:
        torch.set_num_threads(threads)


def loader_of(data: TrainingData, config: RunConfig, task_class: type[Task], world: World) -> Loader:
    """Returns this rank's loader of training batches."""
    return Loader(
        data,
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


def task_tags(task: Task) -> dict[str, str]:
    """Tags of what a task says about itself."""
    return {f"trainplane.task.{name}": str(value) for name, value in task.describe().items()}


def tracker_of(job: TrainJob, world: World) -> Recorder:
    """Tracker of rank 0; other ranks get a null tracker."""
    # So no call site has to check the rank.
    # With a reserved id, the tracker creates the MLflow run when the server answers.
    if job.tracking is None or not world.is_first:
        return Recorder()
    run_spec = RunSpec(**job.tracking.run_spec) if job.tracking.run_spec else None
    target = job.tracking
    return Tracker(target.server, target.run_id, spool=target.spool, run_spec=run_spec, patience_s=PREDECESSOR_S)


def step_seed(seed: int, index: int, rank: int) -> int:
    """Returns a different generator seed for every (seed, step, rank)."""
    # Splitmix64's finaliser over the three.
    # Arithmetic modulo 2^64; odd constants spread the three inputs, the shifts mix them.
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB + 1) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return (value ^ (value >> 31)) & ((1 << 63) - 1)


def split_of(
    config: RunConfig, found: int | None, meta: Mapping[str, Any], world: World, task: Task
) -> tuple[BatchSplit, tuple[int | None, int]]:
    """Split of the global batch, and its memory limit.

    `found` is a size that this command found after memory ran out, `meta` the checkpoint's.
    """
    train = config.train
    limit, memory = memory_limit(found, meta, _memory_bytes(task.device))
    # Ranks may have GPUs of two kinds, and split alike.
    limit = world.agree(limit or 0, task.device) or None
    micro_batch = limit if train.micro_batch == "auto" else train.micro_batch
    return split_batch(global_batch=train.global_batch, ranks=world.size, micro_batch=micro_batch), (limit, memory)


def _memory_bytes(device: torch.device) -> int:
    """Memory of a GPU, or of this host."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(psutil.virtual_memory().total)


def collector_of(task: Task) -> Callable[[], object]:
    """Function that frees a large task once it is dropped."""
    # It looks at every object of the process, for a second and more; a small model may wait for Python's own turn.
    parameters = (p for module in task.modules().values() for p in module.parameters())
    is_small = sum(p.numel() * p.element_size() for p in parameters) < SMALL_MODEL_BYTES
    return (lambda: None) if is_small else gc.collect
