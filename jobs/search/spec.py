"""Builds and checks a search from its file and overrides."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jobs.config import ISNetConfig, run_schema
from jobs.data.demo_photos import ensure_demo_datasets
from jobs.data.mask_datasets import with_located_masks
from jobs.data.mean_color import with_mean_color
from jobs.presets import SEARCH, merge, preset_names, preset_tree
from jobs.search.model_cost import COST_METRICS
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import in_ray_job
from trainplane.command_line import command_line
from trainplane.config.canonical import flatten
from trainplane.config.load import build
from trainplane.config.overrides import apply_overrides
from trainplane.data.named import open_dataset
from trainplane.data.training_data import check_fills_batch, open_mix, training_data
from trainplane.errors import UserError, nearest
from trainplane.search.config import KINDS, SearchFile, SearchSettings
from trainplane.search.policy import budget, pbt
from trainplane.search.policy.admission import admit
from trainplane.search.run.driver import trial_limit
from trainplane.search.run.launch import Search, cost_rates, trial_resources
from trainplane.search.space import Settings, Space, search_key, set_dotted
from trainplane.task import load_task
from trainplane.train.run_config import RunConfig
from trainplane.train.start.prepare import located_start

COST_FUNCTION = "jobs.search.model_cost:model_costs"
# Trials whose complete configuration is built before the search starts.
CHECKED_TRIALS = 32
SPACE = "search.space."
# Trials on other data could not be compared.
_DATA_SETTINGS = ("data.train", "data.mix", "data.val", "data.val_sets", "data.val_samples")
# Resources of a trial are counted once, before the start, so that no trial can wait for another.
_RESOURCE_SETTINGS = ("train.steps", "train.workers", "train.cpus_per_worker", "train.use_gpu")


@dataclass(frozen=True)
class LoadedSearch:
    """Search file, and the resolved base of every trial."""

    file: SearchFile
    base: dict[str, Any]
    words: tuple[str, ...]  # Preset and overrides, as typed

    def configure(self, number: int, settings: Settings, segment: int) -> RunConfig:
        """Configuration of a trial."""
        tree = apply_overrides(self.base, [])
        for name, value in settings.items():
            set_dotted(tree, name, value)
        # After each exploit the trial is another run, and has another name.
        # A run's name has at most 63 characters.
        tree["name"] = f"{self.file.name[:48]}-{number:04d}" + (f"-g{segment}" if segment else "")
        # What the user may have meant by an unknown name: the space and the limits are settings, too.
        return build(run_schema(tree), tree, beside=[SearchFile])


def load_search(preset: str, overrides: Sequence[str]) -> LoadedSearch:
    """Loads a search by name or file, with overrides."""
    tree = preset_tree(preset, preset_names(SEARCH))
    if "search" not in tree:
        searches = ", ".join(preset_names(SEARCH))
        raise UserError(
            f"{preset!r} is no search (no 'search:' section); try {searches}, or `{command_line('train', preset)}`"
        )
    # Overrides of the search; all others are for its base.
    # A trial's name follows from its search, so an override of the name is meant for the search.
    of_search = [override for override in overrides if override.startswith(("search.", "name="))]
    file = build(SearchFile, _with_space(tree, of_search))
    of_base = [override for override in overrides if override not in of_search]
    base = merge(preset_tree(file.base), file.overrides)
    return LoadedSearch(file, apply_overrides(base, of_base, run_schema(base, of_base)), (preset, *overrides))


def _with_space(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Applies overrides such as `search.space.loss.style.uniform=[1, 9]`."""
    # Settings in the space have dots in their names.
    of_space = [override for override in overrides if override.startswith(SPACE)]
    tree = apply_overrides(tree, [override for override in overrides if override not in of_space], SearchFile)
    for override in of_space:
        path, _, text = override.removeprefix(SPACE).partition("=")
        name, _, part = path.rpartition(".")
        value = apply_overrides({}, [f"value={text}"])["value"]
        space = tree["search"].setdefault("space", {})
        # The last part is a kind of values, `when`, or belongs to the setting's name.
        if part in (*KINDS, "when"):
            space[name] = {part: value} if part != "when" else {**space.get(name, {}), part: value}
        elif value is None:
            space.pop(path, None)
        else:
            space[path] = value
    return tree


def build_search(loaded: LoadedSearch, context: Context, *, may_pack: bool = True) -> Search:
    """Builds and checks a search; starts nothing."""
    # An alias is resolved once, for all trials.
    start = located_start(loaded.configure(0, {}, 0), context).train
    if start.start_from is not None:
        located = {"start_from": start.start_from, "start_from_digest": start.start_from_digest}
        loaded = replace(loaded, base=merge(loaded.base, {"train": located}))
    base = loaded.configure(0, {}, 0)
    known_settings = flatten(base.model_dump(mode="json"))
    settings = loaded.file.search
    for name in settings.space:
        _check_name(name, known_settings)
    _check_objectives(loaded, base)
    if settings.algorithm == "pbt":
        _check_population(loaded, base)
    _check_rungs(settings, base)
    _check_lengths(base)
    if may_pack:
        # Packs the demo's datasets if they are used and missing.
        ensure_demo_datasets([base.data.train, *base.data.mix, base.data.val], context)
    first, further = open_dataset(base.data.train, context), open_mix(base.data.mix, context)
    train_data = training_data(first, further, global_batch=base.train.global_batch)
    val_data = open_dataset(base.data.val, context) if base.data.val else None
    key = search_key(loaded.file, loaded.base, [train_data.digest, val_data.digest if val_data else None])
    search = assemble_search(loaded, context, key=key)

    # A configuration refuses its own bad settings, so build some of them.
    def check(drawn: Settings) -> None:
        batch = search.configure(0, drawn, 0).train.global_batch
        check_fills_batch(training_data(first, further, global_batch=batch), global_batch=batch)

    _check_trials(settings, search.space, check)
    return search


def assemble_search(loaded: LoadedSearch, context: Context, *, key: str) -> Search:
    """Builds a search without checks, as one started before."""
    base, settings = loaded.configure(0, {}, 0), loaded.file.search

    def configure(number: int, drawn: Settings, segment: int) -> RunConfig:
        config = loaded.configure(number, drawn, segment)
        return with_mean_color(with_located_masks(config, context), context)

    # Model costs are measured only where an objective needs them.
    has_costs = isinstance(base, ISNetConfig) and any(goal.metric in COST_METRICS for goal in settings.goals)
    return Search(
        loaded.file.name,
        key,
        settings,
        Space.of(settings, flatten(base.model_dump(mode="json"))),
        base.train,
        configure,
        extra_metrics=COST_FUNCTION if has_costs else None,
        description={
            "words": list(loaded.words),
            "file": loaded.file.model_dump(mode="json", exclude_unset=True),
            "base": loaded.base,
        },
    )


def check_resources(search: Search, *, trial_seconds: float | None) -> None:
    """Checks that the budget and this machine allow one trial."""
    resources = trial_resources(search.train, gpus=0.0)
    costs = cost_rates(resources, search.train)
    trials = trial_limit(search.plan(costs))
    budget.check(search.settings.budget, costs, steps=search.train.steps, trial_seconds=trial_seconds)
    # A cluster is checked when the search runs on it.
    # Outside a Ray job the search starts its own cluster, on this machine.
    if not in_ray_job() and search.train.use_gpu is not True:
        admit(resources, nodes=[(float(os.cpu_count() or 1), 0.0)], trials=trials, requested=search.settings.concurrent)


def _check_name(name: str, known_settings: dict[str, Any]) -> None:
    """Refuses an explored setting that is unknown or cannot vary."""
    parent, _, leaf = name.rpartition(".")
    if name not in known_settings:
        # Suggest a setting of the same section; of an unknown section, any setting.
        everything = list(known_settings)
        siblings = [setting.rpartition(".")[2] for setting in everything if setting.rpartition(".")[0] == parent]
        hint = nearest(leaf, siblings) if parent and siblings else nearest(name, siblings or everything)
        raise UserError(f"search.space names an unknown setting {name!r}{hint}")
    if name in _DATA_SETTINGS:
        raise UserError(f"search.space.{name}: trials on other data cannot be compared; leave it out of the space")
    if name in _RESOURCE_SETTINGS:
        raise UserError(f"search.space.{name}: it belongs to the budget of a trial; set it in the base instead")
    if name.startswith("train.start_"):
        raise UserError(f"search.space.{name}: all trials begin at one start; set train.start_from in the base instead")
    if name in ("name", "task") or parent == "tracking":
        raise UserError(f"search.space.{name} changes nothing that is trained; leave it out of the space")


def _check_trials(search: SearchSettings, space: Space, check: Callable[[Settings], None]) -> None:
    """Builds configurations of the first trials and of all edges."""
    if search.algorithm == "grid":
        drawn = space.grid()
        if not drawn:
            raise UserError("search.constraints leave no combination of the grid; relax them")
        # A large grid is checked at regular intervals.
        drawn = drawn[:: max(1, len(drawn) // CHECKED_TRIALS)]
    else:
        drawn = [space.random(number) for number in range(min(CHECKED_TRIALS, search.trials))]
    # Each dimension at its ends, with the other settings of the first trial.
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
    """Refuses an objective that no trial reports."""
    task = load_task(base.task)
    validation = task.measured(base)
    costs = COST_METRICS if isinstance(base, ISNetConfig) else ()
    for goal in loaded.file.search.goals:
        if goal.metric in costs:
            continue
        if goal.metric.startswith("val/"):
            if base.data.val is None:
                raise UserError(f"search {loaded.file.name!r}: {goal.metric} needs held-out pictures; set data.val=…")
            # A task that does not list its metrics is checked by its first report.
            prefixes = ["val/", *(f"val/{name}/" for name in base.data.val_sets)]
            if validation is None or goal.metric in {prefix + name for prefix in prefixes for name in validation}:
                continue
        choices = [f"val/{name}" for name in validation or ()] + list(costs)
        raise UserError(
            f"no trial reports {goal.metric!r}, an objective of search {loaded.file.name!r}"
            + (nearest(goal.metric, choices) if choices else "; name a metric of validation, such as val/NAME")
        )


def _check_rungs(settings: SearchSettings, base: RunConfig) -> None:
    """Refuses a first rung at or behind the end."""
    first = settings.asha.first if settings.asha is not None else None
    if first is not None and first >= base.train.steps:
        raise UserError(
            f"search.asha.first={first} and train.steps={base.train.steps}: no trial would ever be stopped early; "
            f"set search.asha.first={max(1, base.train.steps // 9)}, or leave search.asha out"
        )


def _check_lengths(base: RunConfig) -> None:
    """Refuses trials that end by themselves; the search ends them."""
    for name in ("patience", "max_hours"):
        if getattr(base.train, name) is not None:
            raise UserError(
                f"train.{name}={getattr(base.train, name)} would end trials before the steps where they are compared; "
                "leave it out, and limit the search with search.budget or search.asha"
            )


def _check_population(loaded: LoadedSearch, base: RunConfig) -> None:
    """Refuses settings that cannot change during a training."""
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
            f"search.pbt.every={every} and train.steps={base.train.steps}: there would be no second generation; "
            f"set search.pbt.every={max(1, base.train.steps // 10)}"
        )
