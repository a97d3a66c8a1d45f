"""Runs a search in a context.

Admits trials, opens the journal, and records all trials under one parent run. A killed search resumes from its journal,
its trials from their own checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainplane.cluster.autoscaler import node_wait_s
from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import ray_session, scratch_folder
from trainplane.command_line import command_line
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.search.config import SearchSettings
from trainplane.search.policy.admission import TrialResources
from trainplane.search.policy.budget import CostRates
from trainplane.search.policy.scheduler import SearchPlan
from trainplane.search.policy.state import SearchState, WorkItem, fold
from trainplane.search.run.driver import Driver, has_same_limits, trial_limit
from trainplane.search.run.journal import DESCRIPTION_FILE, FOLDER, Journal, JournalRecord, open_journal, read_journal
from trainplane.search.run.ray_tune import run_on_tune
from trainplane.search.run.trial import Assignment, train_item
from trainplane.search.run.weights_transfer import pin_owner, release_donor
from trainplane.search.run.width import fitting_now, wait_for_width
from trainplane.search.space import Settings, Space
from trainplane.storage import StorageError, open_store
from trainplane.train.checkpoint.pins import pin
from trainplane.train.config import TrainConfig
from trainplane.train.run_config import RunConfig

Configure = Callable[[int, Settings, int], RunConfig]
"""Configuration of a trial, from its number, its settings and its number of exploits."""


@dataclass(frozen=True)
class Search:
    """A checked search, ready to start."""

    name: str
    key: str  # Identity, see `space.search_key`
    settings: SearchSettings
    space: Space
    train: TrainConfig
    configure: Configure
    extra_metrics: str | None = None  # `module:function` that returns metrics which validation does not measure
    # How it was begun, kept beside its journal, so that it is found and read without saying that again
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Folder of the search in the checkpoint store."""
        return f"{FOLDER}/{self.name}-{self.key[:12]}"

    def plan(self, costs: CostRates) -> SearchPlan:
        """Constant input of the scheduler."""
        return SearchPlan(self.settings, self.space, self.train.steps, costs)


def trial_resources(train: TrainConfig, *, gpus: float) -> TrialResources:
    """Resources of one trial on a cluster with `gpus` GPUs."""
    # `auto` uses a GPU where the cluster has one.
    wants_gpu = train.use_gpu is True or (train.use_gpu == "auto" and gpus > 0)
    return TrialResources(
        train.max_workers, train.cpus_per_worker, 1.0 if wants_gpu else 0.0, min_workers=train.min_workers
    )


def cost_rates(resources: TrialResources, train: TrainConfig) -> CostRates:
    """Costs of a running trial."""
    # The price is that of one worker.
    price = None if train.price_per_hour is None else train.price_per_hour * resources.workers
    return CostRates(resources.cpus, resources.gpus, price)


def register_search_dir(search: Search, context: Context) -> None:
    """Writes `search.json` beside the journal."""
    try:
        description = canonical_json({**search.description, "name": search.name, "key": search.key})
        open_store(context.checkpoints).write(f"{search.folder}/{DESCRIPTION_FILE}", description)
    except (StorageError, OSError) as error:
        raise UserError(
            f"the search's journal cannot be written to {context.checkpoints}/{search.folder} ({error}); "
            f"fix its permissions or name another store, then run `{command_line('doctor')}`"
        ) from error


def run_search(
    search: Search,
    context: Context,
    *,
    parent_run_id: str,
    on_change: Callable[[Driver], None],
    prior_results: list[JournalRecord],
    emit: Callable[[str], None],
) -> Driver:
    """Runs a search, with as many trials as fit.

    Returns the driver in its last state; `emit` gets messages for people. Raises `UserError` if not even one trial fits
    the cluster.
    """
    with open_journal(open_store(context.checkpoints), search.folder) as journal:
        if (finished := _finished_search(search, journal)) is not None:
            return finished
        with ray_session() as ray, scratch_folder() as scratch:
            # Count what the cluster has, node by node.
            resources = trial_resources(search.train, gpus=ray.cluster_resources().get("GPU", 0.0))
            plan = search.plan(cost_rates(resources, search.train))
            width = wait_for_width(
                ray,
                resources,
                trials=trial_limit(plan),
                requested=search.settings.concurrent,
                limit_s=node_wait_s(search.train.wait_for_nodes, ray),
                emit=emit,
            )
            # Resume from the journal, with as many slots as the search had.
            driver = Driver.resume(plan, journal, key=search.key, width=width, prior_results=prior_results)
            driver.count_fitting = lambda: fitting_now(
                ray, resources, trials=trial_limit(plan), requested=search.settings.concurrent
            )
            driver.on_change = lambda state: on_change(driver)
            driver.pin_donor = lambda exploit: pin_donor(exploit, parent_run_id)
            # Tune places the trial's own process; workers of a group are placed by Ray Train.
            own: dict[str, float] = {"CPU": resources.own_cpus}
            if not resources.is_group and resources.gpus:
                own["GPU"] = resources.gpus
            assign = assignment_builder(search, driver.state)
            run_on_tune(driver, _trial_function(context, parent_run_id), assign, resources=own, scratch=scratch)
        release_donors(driver.state, parent_run_id)
        return driver


def _finished_search(search: Search, journal: Journal) -> Driver | None:
    # Driver of a search that is complete under its limits. Such a search needs no cluster.
    if not journal.records:
        return None
    plan = search.plan(cost_rates(trial_resources(search.train, gpus=0.0), search.train))
    state = fold(journal.records, search.settings.goals)
    # A search with other limits has work again.
    is_finished = state.end_reason is not None and state.key == search.key and has_same_limits(plan, state)
    return Driver.read_only(plan, state) if is_finished else None


def assignment_builder(search: Search, state: SearchState) -> Callable[[WorkItem], dict[str, Any]]:
    """Returns a function from items to assignments, as dicts."""

    def assign(item: WorkItem) -> dict[str, Any]:
        trial = state.trials[item.trial]
        config = search.configure(trial.number, trial.settings, trial.segment)
        # The donor counts only for the first item behind the exploit.
        donor = trial.donor if trial.donor is not None and trial.donor["step"] == item.first_step else None
        return asdict(
            Assignment(
                item.number,
                trial.number,
                item.last_step,
                config.model_dump(mode="json"),
                trial.settings,
                goals=tuple(goal.metric for goal in search.settings.goals),
                extra_metrics=search.extra_metrics,
                donor=donor,
                lineage=tuple(trial.lineage),
            )
        )

    return assign


def _trial_function(context: Context, parent_run_id: str) -> Any:
    """Returns the function that Tune's processes run."""
    # Tune pickles this function, so it holds plain values.
    values = asdict(context)

    def train(assignment: dict[str, Any], emit: Callable[[dict[str, Any]], None]) -> None:
        train_item(Assignment(**assignment), Context(**values), parent_run_id=parent_run_id, emit=emit)

    return train


def pin_donor(exploit: JournalRecord, parent_run_id: str) -> None:
    """Pins a donor's checkpoint until its taker has trained."""
    folder, _, name = exploit["checkpoint"].rpartition("/")
    pin(open_store(folder), name, by=pin_owner(parent_run_id, exploit["trial"]))


def release_donors(state: SearchState, parent_run_id: str) -> None:
    """Removes all donor pins of a finished search."""
    for trial in state.trials.values():
        for exploit in trial.lineage:
            release_donor(exploit["checkpoint"], by=pin_owner(parent_run_id, trial.number))


def read_state(search: Search, context: Context) -> SearchState | None:
    """State of a search, also while running; None without journal."""
    records = read_journal(open_store(context.checkpoints), search.folder)
    return fold(records, search.settings.goals) if records else None


def load_prior_results(context: Context, name: str, settings: SearchSettings) -> list[JournalRecord]:
    """Finished trials of earlier searches of one name: {settings, values}."""
    # Only trials with all objectives of this search are returned.
    store = open_store(context.checkpoints)
    # A folder is named NAME-KEY; a folder without a journal is a search that never started.
    folders = sorted(
        {
            "/".join(entry.key.split("/")[:2])
            for entry in store.list(f"{FOLDER}/{name}-")
            if entry.key.split("/")[1].rpartition("-")[0] == name and not entry.key.endswith(f"/{DESCRIPTION_FILE}")
        }
    )
    if not folders:
        raise UserError(f"search.warm_start={name!r}: no search of that name has a journal here; run it first")
    results = []
    for folder in folders:
        state = fold(read_journal(store, folder), settings.goals)
        for trial in state.trials.values():
            values = [trial.values.get(goal.metric) for goal in settings.goals]
            if trial.status in ("finished", "resting") and None not in values:
                results.append({"settings": trial.settings, "values": values})
    if not results:
        objectives = ", ".join(goal.metric for goal in settings.goals)
        raise UserError(f"search.warm_start={name!r}: none of its trials has {objectives}; name another search")
    return results
