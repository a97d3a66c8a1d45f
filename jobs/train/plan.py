"""Plans a training: its resources, its length, and its refusals.

Nothing is started or written. Planning continues after a refusal, so that all of them are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from isnet.errors import InputError
from jobs.cli.findings import Finding
from jobs.config import ISNetConfig, load_run_config
from jobs.data.demo_photos import TRAIN, VAL
from jobs.data.mask_datasets import with_located_masks
from jobs.data.mean_color import with_mean_color
from jobs.train.measure import RunData, measured_rate
from jobs.train.memory import Memory, memory_of
from jobs.train.resources import RanksHere, bf16_line, ranks_here
from jobs.train.throughput import Rate, check_stall_limit, last_rate
from trainplane.cluster.context import Context
from trainplane.command_line import command_line
from trainplane.data.manifest import Dataset
from trainplane.data.mixture import Mixture, TrainingData, epoch_size
from trainplane.data.named import open_dataset
from trainplane.data.training_data import check_fills_batch, training_data
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.task import load_task
from trainplane.train.checkpoint.resume import check_resumable
from trainplane.train.checkpoint.retention import RetentionRules, check_metric
from trainplane.train.checkpoint.store import newest_first
from trainplane.train.estimate import Estimate, EstimateInputs, estimate
from trainplane.train.run_config import RunConfig
from trainplane.train.run_key import RunDir, find_run_dir, holder_of, run_key
from trainplane.train.start.prepare import located_start, prepare_start


@dataclass
class TrainingPlan:
    """The plan of a run; a refusal leaves attributes None."""

    findings: list[Finding] = field(default_factory=list)
    config: RunConfig | None = None
    train_data: TrainingData | None = None
    val_data: Dataset | None = None
    place: RunDir | None = None  # key and folder of the run
    done: int = 0  # steps of the run's newest checkpoint
    ranks: RanksHere | None = None
    memory: Memory | None = None
    rate: Rate | None = None
    estimate: Estimate | None = None

    @property
    def ok(self) -> bool:
        """True if the run would start."""
        return all(finding.level != "error" for finding in self.findings)

    def note(self, what: str, remedy: str = "") -> None:
        """Adds a note."""
        self.findings.append(Finding("note", what, remedy))

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """Turns a refusal within its block into a finding."""
        try:
            yield
        except (UserError, InputError, RunFailed) as error:
            self.findings.append(Finding.from_error(error))


def make_plan(preset: str, overrides: list[str], context: Context, *, fresh: bool, measure: bool) -> TrainingPlan:
    """Makes every check of `isnet train`, in its order."""
    plan = TrainingPlan()
    # Without a valid configuration nothing else can be checked.
    with plan.refusals():
        plan.config = load_run_config(preset, overrides)
    if plan.config is None:
        return plan
    config = plan.config
    with plan.refusals():
        plan.config = config = located_start(with_located_masks(config, context), context)
    with plan.refusals():
        load_task(config.task).check(config)
    _datasets(plan, config, context)
    # Of pictures that are not there yet it is unknown, and neither memory nor speed depends on it.
    if plan.train_data is not None:
        with plan.refusals():
            plan.config = config = with_mean_color(config, context)
    if isinstance(config, ISNetConfig):
        _vgg_weights(plan, config)
    _run_dir(plan, config, context, fresh=fresh)
    plan.ranks = ranks_here(config)
    # Too few CPUs or GPUs are a refusal, too.
    with plan.refusals():
        if plan.ranks.refusal is not None:
            raise UserError(plan.ranks.refusal)
    if not isinstance(config, ISNetConfig):
        plan.note(f"memory and time of {config.task} are not known in advance; they are computed for ISNet alone")
        return plan
    if line := bf16_line(config):
        plan.note(line)
    _memory(plan, config)
    # The speed: measured here on request, else from the newest similar run.
    with plan.refusals():
        if not measure:
            key = plan.place.key if plan.place else None
            plan.rate = last_rate(config, context, gpu=plan.ranks.gpu, run_key=key)
        elif plan.ok:
            # What would be refused cannot be measured.
            data = RunData.of(plan.train_data, plan.val_data)
            plan.rate = measured_rate(config, plan.ranks, data, done=min(plan.done, config.train.steps))
    with plan.refusals():
        check_stall_limit(config.train, plan.rate)
    if plan.rate is None and not measure:
        plan.note("the speed is unknown, as no similar run is recorded", "add --measure to time a few steps here")
    if plan.train_data is not None and plan.memory is not None:
        plan.estimate = estimate_run(
            config,
            plan.train_data,
            plan.val_data,
            done=min(plan.done, config.train.steps),
            ranks=plan.ranks.most,
            hosts=plan.ranks.hosts,
            state_bytes=plan.memory.state,
            rate=plan.rate,
        )
    return plan


def _datasets(plan: TrainingPlan, config: RunConfig, context: Context) -> None:
    first = _opened(plan, config.data.train, context)
    mix = {name: (_opened(plan, name, context), share) for name, share in config.data.mix.items()}
    further = {name: (dataset, share) for name, (dataset, share) in mix.items() if dataset is not None}
    if first is not None and len(further) == len(mix):
        batch = config.train.global_batch
        with plan.refusals():
            plan.train_data = training_data(first, further, global_batch=batch)
            check_fills_batch(plan.train_data, global_batch=batch)
    if isinstance(plan.train_data, Mixture):
        parts = [f"{each.places} of {each.dataset.name}" for each in plan.train_data.sets]
        counted = plan.train_data.sets[0].dataset.name
        plan.note(f"each batch of {config.train.global_batch} is {', '.join(parts)}; epochs are those of {counted}")
    if config.data.val is not None:
        plan.val_data = _opened(plan, config.data.val, context)
    for name in config.data.val_sets.values():
        _opened(plan, name, context)
    if config.data.val is None:
        # Without held-out pictures there are no metrics to keep the best checkpoints by.
        with plan.refusals():
            check_metric(RetentionRules.of(config.train), [])


def _opened(plan: TrainingPlan, name: str, context: Context) -> Dataset | None:
    """Opens a dataset, or says why it cannot be."""
    with plan.refusals():
        # `isnet train` packs the demo's datasets itself.
        if name in (TRAIN, VAL) and open_store(context.dataset(name)).size("manifest.json") is None:
            plan.note(
                f"dataset {name!r} is not there yet; `{command_line('train', 'demo')}` packs it from photos of "
                "installed packages"
            )
            return None
        return open_dataset(name, context)
    return None


def _vgg_weights(plan: TrainingPlan, config: ISNetConfig) -> None:
    loss = config.loss
    with plan.refusals():
        loss.check_files()
    if loss.needs_hub:
        plan.note(
            f"loss.perceptual_weights={loss.perceptual_weights} comes from timm's hub, about 550 MB unless cached",
            "set loss.perceptual_weights=FILE to use a file instead",
        )


def _run_dir(plan: TrainingPlan, config: RunConfig, context: Context, *, fresh: bool) -> None:
    """Finds the run's folder, its progress, and its current holder."""
    if plan.train_data is None or (config.data.val is not None and plan.val_data is None):
        return
    # The key needs the digests of the datasets.
    with plan.refusals():
        key = run_key(config, plan.train_data.digest, plan.val_data.digest if plan.val_data else None)
        plan.place = find_run_dir(config, key=key, checkpoints=context.checkpoints, fresh=fresh)
        newest = next(newest_first(open_store(plan.place.address)), None)
        plan.done = newest.step if newest else 0
        check_resumable(open_store(plan.place.address), config, plan.train_data)
        if (start := prepare_start(config, context, plan.place, plan.train_data)) is not None:
            plan.note(f"it {start.report}")
            plan.done = max(plan.done, start.report.step or 0)
    if plan.place is not None and (holder := holder_of(context.home, plan.place.folder)):
        with plan.refusals():
            raise UserError(
                f"another process (pid {holder}) is training {plan.place.folder} in {context.home}; "
                "wait for it, end it, or set ISNET_HOME elsewhere"
            )


def _memory(plan: TrainingPlan, config: ISNetConfig) -> None:
    if plan.ranks is None:
        return
    with plan.refusals():
        plan.memory = memory = memory_of(config, plan.ranks)
        if memory.available is not None and memory.process * memory.ranks_per_host > memory.available:
            plan.findings.append(
                Finding(
                    "warning",
                    f"{memory.ranks_per_host} ranks of {memory.process / 2**30:.1f} GiB each are more than the "
                    f"{memory.available / 2**30:.1f} GiB that are available",
                    "set train.micro_batch=auto, or a smaller one",
                )
            )


def estimate_run(
    config: ISNetConfig,
    train_data: TrainingData,
    val_data: Dataset | None,
    *,
    done: int,
    ranks: int,
    hosts: int,
    state_bytes: int,
    rate: Rate | None,
) -> Estimate:
    """Estimates steps, bytes, time and cost of a run."""
    # Validation reads part of the held-out set.
    share = min(1.0, config.data.val_samples / val_data.num_samples) if val_data else 0.0
    samples, data_bytes = epoch_size(train_data)
    inputs = EstimateInputs(
        done=done,
        ranks=ranks,
        samples=samples,
        data_bytes=data_bytes,
        val_bytes=round(val_data.bytes * share) if val_data else 0,
        hosts=hosts,
        cache_bytes=config.data.cache_bytes if config.data.cache else 0,
        state_bytes=state_bytes,
        pictures_per_s=rate.pictures_per_s if rate else None,
    )
    return estimate(config.train, inputs)
