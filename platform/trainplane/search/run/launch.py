"""Carry a search out in a context: what fits the cluster, its journal, its trials under one parent run.

Killed at any moment and started again, it goes on from its journal, and its trials from their own checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from trainplane.cluster.context import Context
from trainplane.cluster.ray_session import ray_session, scratch_folder
from trainplane.config.canonical import canonical_json
from trainplane.errors import UserError
from trainplane.search.config import SearchSettings
from trainplane.search.policy.admission import Need, admit
from trainplane.search.policy.budget import Rates
from trainplane.search.policy.scheduler import Plan
from trainplane.search.policy.state import Item, State, fold
from trainplane.search.run.driver import Driver, is_within_limits, trial_limit
from trainplane.search.run.journal import Journal, Record, open_journal, read_journal
from trainplane.search.run.ray_tune import run_on_tune
from trainplane.search.run.trial import Assignment, work
from trainplane.search.run.weights_transfer import let_go
from trainplane.search.space import Settings, Space
from trainplane.storage import StorageError, open_store
from trainplane.train.checkpoint.pins import pin
from trainplane.train.config import TrainConfig
from trainplane.train.run_config import RunConfig

FOLDER = "searches"
ABOUT = "search.json"
Configure = Callable[[int, Settings, int], RunConfig]
"""The configuration of a trial: its number, its settings, how often it has taken over from others."""


@dataclass(frozen=True)
class Search:
    """A search that may start. `facts`: `module:function` that tells values beside those of validation."""

    name: str
    key: str
    settings: SearchSettings
    space: Space
    train: TrainConfig
    configure: Configure
    facts: str | None = None

    @property
    def folder(self) -> str:
        """Its place in the store of checkpoints."""
        return f"{FOLDER}/{self.name}-{self.key[:12]}"

    def plan(self, rates: Rates) -> Plan:
        return Plan(self.settings, self.space, self.train.steps, rates)


def need_of(train: TrainConfig, *, gpus: float) -> Need:
    """What one trial occupies on a cluster that has so many GPUs."""
    wants_gpu = train.use_gpu is True or (train.use_gpu == "auto" and gpus > 0)
    return Need(train.max_workers, train.cpus_per_worker, 1.0 if wants_gpu else 0.0, least_workers=train.min_workers)


def rates_of(need: Need, train: TrainConfig) -> Rates:
    """What a running trial is billed."""
    price = None if train.price_per_hour is None else train.price_per_hour * need.workers
    return Rates(need.cpus, need.gpus, price)


def take_place(search: Search, context: Context) -> None:
    """Write `search.json` beside its journal: `UserError` where the store cannot be written; no trial could save."""
    try:
        about = canonical_json({"name": search.name, "key": search.key})
        open_store(context.checkpoints).write(f"{search.folder}/{ABOUT}", about)
    except (StorageError, OSError) as error:
        raise UserError(
            f"the search's journal cannot be written to {context.checkpoints}/{search.folder} ({error}); "
            "mend its permissions or name another store, then run `isnet doctor`"
        ) from error


def carry_out(
    search: Search, context: Context, *, parent_run_id: str, watch: Callable[[Driver], None], prior: list[Record]
) -> Driver:
    """Run it to its end, as many trials at once as fit; `watch` is called whenever something changed.

    Raises `UserError` where not one trial fits.
    """
    with open_journal(open_store(context.checkpoints), search.folder) as journal:
        if (found := _ended(search, journal)) is not None:
            return found
        with ray_session() as ray, scratch_folder() as scratch:
            has = ray.cluster_resources()
            need = need_of(search.train, gpus=has.get("GPU", 0.0))
            plan = search.plan(rates_of(need, search.train))
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            width = admit(
                need,
                nodes=[(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in nodes],
                trials=trial_limit(search.settings, plan),
                wanted=search.settings.concurrent,
            )
            driver = Driver.resume(plan, journal, key=search.key, width=width, prior=prior)
            driver.watch = lambda state: watch(driver)
            driver.pin = lambda takeover: _pin(takeover, parent_run_id)
            describe = _describer(search, driver.state)
            own: dict[str, float] = {"CPU": need.own_cpus}
            if need.workers == 1 and need.gpus:
                own["GPU"] = need.gpus
            run_on_tune(driver, _body(context, parent_run_id), describe, resources=own, scratch=scratch)
        _let_go_of_donors(driver.state, parent_run_id)
        return driver


def _ended(search: Search, journal: Journal) -> Driver | None:
    """The search as it ended before, where nothing is left to do; that is not worth a cluster."""
    if not journal.records:
        return None
    plan = search.plan(rates_of(need_of(search.train, gpus=0.0), search.train))
    state = fold(journal.records, search.settings.goals)
    same = state.ended is not None and state.key == search.key and is_within_limits(plan, state)
    return Driver.of(plan, state) if same else None


def _describer(search: Search, state: State) -> Callable[[Item], dict[str, Any]]:
    def describe(item: Item) -> dict[str, Any]:
        trial = state.trials[item.trial]
        config = search.configure(trial.number, trial.settings, trial.segment)
        donor = trial.donor if trial.donor is not None and trial.donor["step"] == item.first else None
        return asdict(
            Assignment(
                item.number,
                trial.number,
                item.last,
                config.model_dump(mode="json"),
                trial.settings,
                goals=tuple(goal.metric for goal in search.settings.goals),
                facts=search.facts,
                donor=donor,
                lineage=tuple(trial.lineage),
            )
        )

    return describe


def _body(context: Context, parent_run_id: str) -> Any:
    values = asdict(context)

    def body(described: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        work(Assignment(**described), Context(**values), parent_run_id=parent_run_id, tell=tell)

    return body


def _pin(takeover: Record, parent_run_id: str) -> None:
    folder, _, name = takeover["checkpoint"].rpartition("/")
    pin(open_store(folder), name, by=pinner(parent_run_id, takeover["trial"]))


def pinner(parent_run_id: str, trial: int) -> str:
    """Who pins a donor's checkpoint."""
    return f"search {parent_run_id} trial {trial}"


def _let_go_of_donors(state: State, parent_run_id: str) -> None:
    for trial in state.trials.values():
        for one in trial.lineage:
            let_go(one["checkpoint"], by=pinner(parent_run_id, trial.number))


def read_state(search: Search, context: Context) -> State | None:
    """How the search stands by its journal, while it may be running; None where there is none."""
    records = read_journal(open_store(context.checkpoints), search.folder)
    return fold(records, search.settings.goals) if records else None


def earlier_results(context: Context, name: str, settings: SearchSettings) -> list[Record]:
    """Finished trials of earlier searches called `name`, {settings, values}, that have all objectives of this one."""
    store = open_store(context.checkpoints)
    folders = sorted(
        {
            "/".join(entry.key.split("/")[:2])
            for entry in store.list(f"{FOLDER}/{name}-")
            if entry.key.split("/")[1].rpartition("-")[0] == name and not entry.key.endswith(f"/{ABOUT}")
        }
    )
    if not folders:
        raise UserError(f"search.warm_start={name!r}: no search of that name has a journal here; run it first")
    found = []
    for folder in folders:
        state = fold(read_journal(store, folder), settings.goals)
        for trial in state.trials.values():
            values = [trial.values.get(goal.metric) for goal in settings.goals]
            if trial.standing in ("finished", "resting") and None not in values:
                found.append({"settings": trial.settings, "values": values})
    if not found:
        wanted = ", ".join(goal.metric for goal in settings.goals)
        raise UserError(f"search.warm_start={name!r}: none of its trials has {wanted}; name another search")
    return found
