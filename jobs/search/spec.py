"""From what was typed to a search that may start: its file, its space, and everything that can be refused before."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.config import TASK, ISNetConfig, merge, preset_names, preset_tree
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import with_located_masks
from jobs.search.model_cost import COST_METRICS
from jobs.train.throughput import last_rate
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job
from trainplane.config.canonical import flatten
from trainplane.config.load import apply_overrides, build
from trainplane.data.manifest import Dataset
from trainplane.errors import UserError, nearest
from trainplane.search.config import KINDS, SearchFile, SearchSettings
from trainplane.search.policy import budget, pbt
from trainplane.search.policy.admission import admit
from trainplane.search.run.driver import trial_limit
from trainplane.search.run.launch import Search, cost_rates, trial_resources
from trainplane.search.space import Settings, Space, search_key, set_dotted
from trainplane.task import load_task
from trainplane.train.run_config import RunConfig
from trainplane.train.setup import check_fills_batch

COST_FUNCTION = "jobs.search.model_cost:model_costs"
# Random trials whose whole configuration is built before anything starts.
TRIED = 32
SPACE = "search.space."
_MEASURED_BY = ("data.train", "data.val", "data.val_samples")
_RESERVED = ("train.steps", "train.workers", "train.cpus_per_worker", "train.use_gpu")


@dataclass(frozen=True)
class LoadedSearch:
    """A search file, and the resolved settings under every trial."""

    file: SearchFile
    base: dict[str, Any]

    def configure(self, number: int, settings: Settings, segment: int) -> RunConfig:
        """The frozen configuration of a trial; after each take-over it is another run, and so has another name."""
        tree = apply_overrides(self.base, [])
        for name, value in settings.items():
            set_dotted(tree, name, value)
        # A name has 63 letters at most.
        tree["name"] = f"{self.file.name[:48]}-{number:04d}" + (f"-g{segment}" if segment else "")
        return build(config_class(tree), tree)


def config_class(tree: dict[str, Any]) -> type[RunConfig]:
    """What can be set, which the task says."""
    return load_task(str(tree.get("task", TASK))).Config


def load_search(preset: str, overrides: Sequence[str]) -> LoadedSearch:
    """The search behind a name or a file. Overrides go to the search or to its base."""
    tree = preset_tree(preset)
    if "search" not in tree:
        searches = ", ".join(preset_names("search_"))
        raise UserError(f"{preset!r} is no search (no 'search:' section); try {searches}, or `isnet train {preset}`")
    # A trial has its name from its search: one given here can only be meant for that.
    of_search = [override for override in overrides if override.startswith(("search.", "name="))]
    file = build(SearchFile, _with_space(tree, of_search))
    of_base = [override for override in overrides if override not in of_search]
    return LoadedSearch(file, apply_overrides(merge(preset_tree(file.base), file.overrides), of_base))


def _with_space(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Overrides of a search. Names in its space have dots of their own: `search.space.loss.style.uniform=[1, 9]`."""
    of_space = [override for override in overrides if override.startswith(SPACE)]
    tree = apply_overrides(tree, [override for override in overrides if override not in of_space])
    for override in of_space:
        path, _, text = override.removeprefix(SPACE).partition("=")
        name, _, part = path.rpartition(".")
        value = apply_overrides({}, [f"value={text}"])["value"]
        space = tree["search"].setdefault("space", {})
        if part in (*KINDS, "when"):
            space[name] = {part: value} if part != "when" else {**space.get(name, {}), part: value}
        elif value is None:
            space.pop(path, None)
        else:
            space[path] = value
    return tree


def build_search(loaded: LoadedSearch, context: Context, *, may_pack: bool = True) -> Search:
    """The search, checked; raises `UserError` for what would stop it later. Starts nothing.

    may_pack -- make the demo's datasets where they are asked for and not there
    """
    base = loaded.configure(0, {}, 0)
    given = flatten(base.model_dump(mode="json"))
    settings = loaded.file.search
    for name in settings.space:
        _check_name(loaded, name, given)
    space = Space.of(settings, given)
    _check_objectives(loaded, base)
    if settings.algorithm == "pbt":
        _check_population(loaded, base)
    _check_rungs(settings, base)
    if may_pack:
        ensure_demo_datasets([base.data.train, base.data.val], context)
    datasets = [Dataset.open(context.dataset(name)) if name else None for name in (base.data.train, base.data.val)]
    assert datasets[0] is not None
    train_data = datasets[0]

    def configure(number: int, drawn: Settings, segment: int) -> RunConfig:
        config = loaded.configure(number, drawn, segment)
        return with_located_masks(config, context) if isinstance(config, ISNetConfig) else config

    def check(settings: Settings) -> None:
        check_fills_batch(configure(0, settings, 0), train_data)

    _check_trials(settings, space, check)
    is_ours = isinstance(base, ISNetConfig)
    return Search(
        loaded.file.name,
        search_key(loaded.file, loaded.base, [dataset.digest if dataset else None for dataset in datasets]),
        settings,
        space,
        base.train,
        configure,
        extra_metrics=COST_FUNCTION
        if is_ours and any(goal.metric in COST_METRICS for goal in settings.goals)
        else None,
    )


def check_resources(search: Search, *, trial_seconds: float | None) -> None:
    """`UserError` where this machine, or the budget, has no room for one trial. A cluster is asked when it is there."""
    need = trial_resources(search.train, gpus=0.0)
    rates = cost_rates(need, search.train)
    trials = trial_limit(search.plan(rates))
    budget.check(search.settings.budget, rates, steps=search.train.steps, trial_seconds=trial_seconds)
    if not in_ray_job() and search.train.use_gpu is not True:
        admit(need, nodes=[(float(os.cpu_count() or 1), 0.0)], trials=trials, requested=search.settings.concurrent)


def estimate_trial_seconds(
    loaded: LoadedSearch, search: Search, context: Context, *, always: bool = False
) -> float | None:
    """How long one trial takes, as the last run like its base did; None where no limit asks for it, or none was run."""
    limits = search.settings.budget.model_dump(exclude={"steps"}, exclude_none=True)
    base = search.configure(0, {}, 0)
    if not (limits or always) or not isinstance(base, ISNetConfig):
        return None
    rate = last_rate(base, context, gpu=base.train.use_gpu is True)
    return base.train.steps * base.train.global_batch / rate.pictures_per_s if rate else None


def _check_name(loaded: LoadedSearch, name: str, given: dict[str, Any]) -> None:
    """Each setting exists and takes the values at the edges of its dimension, on top of the base's."""
    parent, _, leaf = name.rpartition(".")
    if name not in given:
        siblings = [one.rpartition(".")[2] for one in given if one.rpartition(".")[0] == parent] or list(given)
        hint = nearest(leaf if parent and siblings != list(given) else name, siblings)
        raise UserError(f"search.space names an unknown setting {name!r}{hint}")
    if name in _MEASURED_BY:
        raise UserError(f"search.space.{name}: trials on other data cannot be compared; leave it out of the space")
    if name in _RESERVED:
        # What one trial occupies is reckoned once, before any is started: that is why none can wait for another.
        raise UserError(f"search.space.{name}: it belongs to the budget of a trial; set it in the base instead")
    if name in ("name", "task") or parent == "tracking":
        raise UserError(f"search.space.{name} changes nothing that is trained; leave it out of the space")


def _check_trials(search: SearchSettings, space: Space, check: Callable[[Settings], None]) -> None:
    """Whole configurations of the first trials, and with each dimension at its edges; their masks are there, and
    pictures for a batch."""
    if search.algorithm == "grid":
        drawn = space.grid()
        if not drawn:
            raise UserError("search.constraints leave no combination of the grid; relax them")
        drawn = drawn[:: max(1, len(drawn) // TRIED)]
    else:
        drawn = [space.random(number) for number in range(min(TRIED, search.trials))]
    edges = [
        {**drawn[0], name: end}
        for name, dimension in space.dimensions.items()
        if name in drawn[0]
        for end in dimension.edges
        if space.holds({**drawn[0], name: end})
    ]
    for settings in [{}, *drawn, *edges]:
        check(settings)


def _check_objectives(loaded: LoadedSearch, base: RunConfig) -> None:
    """Each objective is something that trials report."""
    task = load_task(base.task)
    measured = task.measured(base)
    facts = COST_METRICS if isinstance(base, ISNetConfig) else ()
    for goal in loaded.file.search.goals:
        if goal.metric in facts:
            continue
        if goal.metric.startswith("val/"):
            if base.data.val is None:
                raise UserError(f"search {loaded.file.name!r}: {goal.metric} needs held-out pictures; set data.val=…")
            if measured is None or goal.metric.removeprefix("val/") in measured:
                continue
        known = [f"val/{name}" for name in measured or ()] + list(facts)
        raise UserError(
            f"no trial reports {goal.metric!r}, which search {loaded.file.name!r} judges by"
            + (nearest(goal.metric, known) if known else "; name a metric of validation, such as val/NAME")
        )


def _check_rungs(settings: SearchSettings, base: RunConfig) -> None:
    """Somebody is judged before the end."""
    first = settings.asha.first if settings.asha is not None else None
    if first is not None and first >= base.train.steps:
        raise UserError(
            f"search.asha.first={first} and train.steps={base.train.steps}: nobody would ever be stopped early; "
            f"set search.asha.first={max(1, base.train.steps // 9)}, or leave search.asha out"
        )


def _check_population(loaded: LoadedSearch, base: RunConfig) -> None:
    settings = loaded.file.search
    for name in settings.space:
        if not name.startswith(pbt.MUTABLE_PREFIXES):
            raise UserError(
                f"search.space.{name} cannot change under trained weights, and algorithm: pbt does that; "
                f"explore {', '.join(pbt.MUTABLE_PREFIXES)}… or use tpe or random"
            )
    every = pbt.generation_steps(settings.pbt, base.train.steps)
    if every >= base.train.steps:
        raise UserError(
            f"search.pbt.every={every} and train.steps={base.train.steps}: nobody would ever take over; "
            f"set search.pbt.every={max(1, base.train.steps // 10)}"
        )
