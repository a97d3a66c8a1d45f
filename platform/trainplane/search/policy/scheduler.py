"""PURE: what a search does next, from what is known. The same facts lead to the same decisions, whoever is killed.

    advance(plan, state) -> the records of all decisions that can be taken now; `state` has taken them in

Trials run in slots, `width` of them. Each slot has a clock that counts training steps, and results count in the order
of these clocks, not in the order in which they happen to arrive: so a search ends alike whatever machine was slow,
whatever was killed and repeated. The price: a slot may have to wait until the others have come as far. Where decisions
do not depend on results (random, grid, PBT within a generation), or with `order: arrival`, nobody waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainplane.search.config import SearchSettings
from trainplane.search.policy import asha, pbt
from trainplane.search.policy.budget import CostRates, reached_limit
from trainplane.search.policy.samplers import suggest_settings
from trainplane.search.policy.state import SearchState, WorkItem, encode_values
from trainplane.search.run.journal import JournalRecord
from trainplane.search.space import Space


@dataclass(frozen=True)
class SearchPlan:
    """What does not change: the search, its space, the steps of a whole training, what a trial occupies."""

    settings: SearchSettings
    space: Space
    steps: int
    costs: CostRates

    @property
    def rungs(self) -> list[int]:
        """Steps at which trials are judged."""
        if self.settings.asha is None:
            return [self.steps]
        return asha.rung_steps(steps=self.steps, first=self.settings.asha.first, eta=self.settings.asha.eta)

    @property
    def needs_fixed_order(self) -> bool:
        """Whether results must be taken in a fixed order for decisions to be the same again."""
        depends = self.settings.algorithm == "tpe" or self.settings.asha is not None
        return depends and self.settings.order == "fixed"


def advance(plan: SearchPlan, state: SearchState) -> list[JournalRecord]:
    """Take every decision that can be taken."""
    taken: list[JournalRecord] = []

    def decide(record: JournalRecord) -> None:
        state.apply(record)
        taken.append(record)

    if state.end_reason is not None:
        return taken
    for item in state.unfinished_items:
        if item.reported_step is not None and not item.is_finite:
            decide(mark_nan(item, state))
    while True:
        why_not = _fill(plan, state, decide)
        next_one = _next_commit(plan, state)
        if next_one is None:
            break
        decide({"k": "commit", "item": next_one.number, "at": next_one.end_clock})
    if not state.open_items:
        decide({"k": "end", "why": why_not, "steps": plan.steps})
    return taken


def mark_nan(item: WorkItem, state: SearchState) -> JournalRecord:
    """A trial whose objective is no number ends with that report, whatever its process does after it."""
    trial = state.trials[item.trial]
    values = encode_values(trial.curve[item.reported_step or 0])
    return {"k": "done", "item": item.number, "status": "nan", "step": item.reported_step, "values": values} | {
        "run_id": trial.run_id,
        "checkpoint": "",
        "error": f"{state.goals[0].metric} is not finite at step {item.reported_step}",
    }


def _fill(plan: SearchPlan, state: SearchState, decide: Any) -> str:
    """Give work to every free slot, as long as there is some; why there is none any more."""
    why_not = ""
    for slot in range(state.width):
        if any(item.slot == slot for item in state.open_items.values()):
            continue
        work = _work(plan, state)
        if isinstance(work, str):
            why_not = work
            break
        if "k" in work:
            decide(work)
            work = _work(plan, state)
            assert not isinstance(work, str), "the next generation has members"
        decide({"k": "go", "item": len(state.items), "slot": slot, "at": state.clock, **work})
    return why_not


def _next_commit(plan: SearchPlan, state: SearchState) -> WorkItem | None:
    """The item whose result counts next; None while it is not certain which one that is."""
    done = [item for item in state.open_items.values() if item.result is not None]
    if not done:
        return None
    if not plan.needs_fixed_order:
        return min(done, key=lambda item: item.arrival)
    first = min(done, key=lambda item: (item.end_clock, item.slot))
    running = state.unfinished_items
    return first if all(_is_later(item, first) for item in running) else None


def _is_later(running: WorkItem, done: WorkItem) -> bool:
    """Whether an item that still runs is certain to end after this one by the slots' clocks."""
    if running.reported_clock != done.end_clock:
        return running.reported_clock > done.end_clock
    goes_on = running.is_finite and running.planned_end_clock > running.reported_clock
    return goes_on or running.slot > done.slot


def _work(plan: SearchPlan, state: SearchState) -> JournalRecord | str:
    """For a free slot: {trial, first, last, why} of an item; or a record to take first; or why there is nothing.

    What is decided at once is one record: a kill cannot part it.
    """
    over = reached_limit(state.budget, state.usage, plan.costs)
    if over is not None:
        return over
    if plan.settings.algorithm == "pbt":
        return _next_of_population(plan, state)
    if plan.settings.asha is not None:
        going = asha.next_promotion(plan.rungs, state.rungs, state.promoted, eta=plan.settings.asha.eta)
        if going is not None and _affordable(plan, state, going):
            return _going_on(plan, going, "promoted")
    new = _new_trial(plan, state)
    if not isinstance(new, str) or plan.settings.asha is None or state.open_items:
        return new
    # Nobody is under way and nothing is new: whoever is best so far becomes the trained model.
    last = asha.final_promotion(plan.rungs, state.rungs, state.promoted)
    return _going_on(plan, last, "finishing") if last is not None else new


def _going_on(plan: SearchPlan, going: tuple[int, int], why: str) -> JournalRecord:
    trial, rung = going
    return {"trial": trial, "first": plan.rungs[rung - 1], "last": plan.rungs[rung], "why": why}


def _affordable(plan: SearchPlan, state: SearchState, going: tuple[int, int]) -> bool:
    rung = going[1]
    return _room(plan, state, cost=plan.rungs[rung] - plan.rungs[rung - 1], reached=plan.rungs[rung])


def _room(plan: SearchPlan, state: SearchState, *, cost: int, reached: int) -> bool:
    """Whether so many steps more leave enough of the budget to train one trial to its end."""
    limit = state.budget.steps
    if limit is None:
        return True
    top = plan.rungs[-1]
    finite = [step for step, rung in state.rungs.items() if any(score is not None for score in rung.values())]
    furthest = max([reached, *finite])
    return state.planned_steps + cost + top - furthest <= limit


def _new_trial(plan: SearchPlan, state: SearchState) -> JournalRecord | str:
    number = len(state.trials)
    if number >= state.trial_limit:
        return f"all {number} trials are done"
    if not _room(plan, state, cost=plan.rungs[0], reached=plan.rungs[0]):
        return f"search.budget.steps={state.budget.steps} is used ({state.usage.total_steps})"
    settings = suggest_settings(number, plan.settings, plan.space, state)
    if settings is None:
        return f"all {number} combinations were tried"
    return {"trial": number, "first": 0, "last": plan.rungs[0], "why": "new", "settings": settings}


def _next_of_population(plan: SearchPlan, state: SearchState) -> JournalRecord | str:
    """Members of a generation in turn; when all have come as far, the next one begins with its take-overs."""
    size, every = plan.settings.pbt.population, pbt.generation_steps(plan.settings.pbt, plan.steps)
    begin = state.generation * every
    end = min(begin + every, plan.steps)
    number = next((trial for trial in range(size) if trial not in state.assigned.get(end, ())), None)
    if number is not None:
        item = {"trial": number, "first": begin, "last": end, "why": "generation" if begin else "new"}
        return item if begin else {**item, "settings": plan.space.random(number)}
    if state.open_items:
        return "the generation is not complete"
    if end >= plan.steps:
        return f"all {size} members are trained"
    if not any(score is not None for score in state.rungs[end].values()):
        return "no member has a finite value"
    if state.budget.steps is not None and state.planned_steps + size * (end - begin) > state.budget.steps:
        return f"search.budget.steps={state.budget.steps} is used ({state.usage.total_steps})"
    return _next_generation(plan, state, end)


def _next_generation(plan: SearchPlan, state: SearchState, step: int) -> JournalRecord:
    """Who takes over from whom after `step`, all in one record."""
    members = {number: trial.settings for number, trial in state.trials.items()}
    found = pbt.plan_exploits(
        state.rungs[step], members, settings=plan.settings.pbt, space=plan.space, generation=state.generation
    )
    exploits = [
        {"trial": one.trial, "donor": one.donor, "checkpoint": state.trials[one.donor].checkpoint}
        | {"settings": one.settings, "segment": state.trials[one.trial].segment + 1, "step": step}
        for one in found
    ]
    return {"k": "exploit", "generation": state.generation + 1, "takeovers": exploits}
