"""Plans a training: what it would take, and why it would be refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from isnet.errors import InputError
from jobs.cli.findings import Finding, refused
from jobs.config import ISNetConfig, load_run_config
from jobs.data.demo_photos import TRAIN, VAL
from jobs.data.mask_datasets import with_located_masks
from jobs.train.memory import Memory, memory_of
from jobs.train.resources import RanksHere, ranks_here
from jobs.train.throughput import Rate, last_rate, measured_rate
from trainplane.cluster.context import Context
from trainplane.data.manifest import Dataset
from trainplane.errors import RunFailed, UserError
from trainplane.storage import open_store
from trainplane.train.checkpoint.resume import check_goes_on
from trainplane.train.checkpoint.retention import Rules, check_metric
from trainplane.train.checkpoint.store import committed
from trainplane.train.estimate import Estimate, Given, estimate
from trainplane.train.run_key import RunPlace, find_place, holder_of, run_key
from trainplane.train.setup import check_enough


@dataclass
class Plan:
    """What was found out; None where a refusal stood in the way."""

    findings: list[Finding] = field(default_factory=list)
    config: ISNetConfig | None = None
    train_data: Dataset | None = None
    val_data: Dataset | None = None
    place: RunPlace | None = None
    done: int = 0
    ranks: RanksHere | None = None
    memory: Memory | None = None
    rate: Rate | None = None
    estimate: Estimate | None = None

    @property
    def ok(self) -> bool:
        return all(finding.level != "error" for finding in self.findings)

    def note(self, what: str, remedy: str = "") -> None:
        self.findings.append(Finding("note", what, remedy))

    @contextmanager
    def refusals(self) -> Iterator[None]:
        """What is refused inside becomes a finding, and planning goes on with the next question."""
        try:
            yield
        except (UserError, InputError, RunFailed) as error:
            self.findings.append(refused(error))


def make_plan(preset: str, overrides: list[str], context: Context, *, fresh: bool, measure: bool) -> Plan:
    """Ask everything there is to ask, in the order in which `isnet train` would."""
    plan = Plan()
    with plan.refusals():
        plan.config = load_run_config(preset, overrides)
    if plan.config is None:
        return plan
    config = plan.config
    with plan.refusals():
        plan.config = config = with_located_masks(config, context)
    _datasets(plan, config, context)
    _vgg_weights(plan, config)
    _place(plan, config, context, fresh=fresh)
    plan.ranks = ranks_here(config)
    with plan.refusals():
        if plan.ranks.refusal is not None:
            raise UserError(plan.ranks.refusal)
    _memory(plan, config)
    with plan.refusals():
        measurable = measure and plan.ranks.refusal is None
        plan.rate = measured_rate(config, plan.ranks) if measurable else last_rate(config, context, gpu=plan.ranks.gpu)
    if plan.rate is None:
        plan.note("no earlier run like this tells how fast it is", "add --measure to time a few steps here")
    _estimate(plan, config)
    return plan


def _datasets(plan: Plan, config: ISNetConfig, context: Context) -> None:
    for name, is_train in ((config.data.train, True), (config.data.val, False)):
        if name is None:
            continue
        with plan.refusals():
            if name in (TRAIN, VAL) and open_store(context.dataset(name)).size("manifest.json") is None:
                plan.note(
                    f"dataset {name!r} is not there yet; `isnet train` packs it from photos of installed packages"
                )
                continue
            dataset = Dataset.open(context.dataset(name))
            if is_train:
                plan.train_data = dataset
                check_enough(config, dataset)
            else:
                plan.val_data = dataset
    if config.data.val is None:
        with plan.refusals():
            check_metric(Rules.of(config.train), [])


def _vgg_weights(plan: Plan, config: ISNetConfig) -> None:
    loss = config.loss
    with plan.refusals():
        loss.check_files()
    if loss.needs_hub:
        plan.note("VGG19's weights come from timm's hub, 548 MB unless cached", "loss.perceptual_weights=FILE has them")


def _place(plan: Plan, config: ISNetConfig, context: Context, *, fresh: bool) -> None:
    """Which run it is, how far, and who trains it now."""
    if plan.train_data is None or (config.data.val is not None and plan.val_data is None):
        return
    with plan.refusals():
        key = run_key(config, plan.train_data.digest, plan.val_data.digest if plan.val_data else None)
        plan.place = find_place(config, key=key, checkpoints=context.checkpoints, fresh=fresh)
        present = committed(open_store(plan.place.address))
        plan.done = present[-1].step if present else 0
        check_goes_on(open_store(plan.place.address), config, plan.train_data)
    if plan.place is not None and (holder := holder_of(context.home, plan.place.folder)):
        with plan.refusals():
            raise UserError(
                f"another process (pid {holder}) is training {plan.place.folder} in {context.home}; "
                "wait for it, end it, or set ISNET_HOME elsewhere"
            )


def _memory(plan: Plan, config: ISNetConfig) -> None:
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


def _estimate(plan: Plan, config: ISNetConfig) -> None:
    if plan.train_data is None or plan.ranks is None or plan.memory is None:
        return
    val = plan.val_data
    share = min(1.0, config.data.val_samples / val.num_samples) if val else 0.0
    given = Given(
        done=min(plan.done, config.train.steps),
        ranks=plan.ranks.most,
        samples=plan.train_data.num_samples,
        data_bytes=plan.train_data.bytes,
        val_bytes=round(val.bytes * share) if val else 0,
        is_cached=config.data.cache is not None,
        state_bytes=plan.memory.state,
        pictures_per_s=plan.rate.pictures_per_s if plan.rate else None,
    )
    plan.estimate = estimate(config.train, given)
