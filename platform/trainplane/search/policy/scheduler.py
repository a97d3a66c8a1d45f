"""Decides what a search trains next, from its state alone.

    advance(plan, state) -> records of all decisions that are possible now, already applied to `state`

Pure: no I/O. The same facts lead to the same decisions, also after kills and restarts. Trials run in `width` slots,
each with a clock that counts training steps. Results count as they arrive; with `order: fixed` in the order of the
clocks, so that a search ends alike on slow and fast machines. The price: a slot may have to wait until the others have
come as far, except where decisions do not depend on results (random, grid, within a PBT generation).
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
    """Constant input of the scheduler; `steps` is a whole training."""

    settings: SearchSettings
    space: Space
    steps: int
    costs: CostRates

    @property
    def rungs(self) -> list[int]:
        """Steps at which trials are compared."""
        if self.settings.asha is None:
            return [self.steps]
        return asha.rung_steps(steps=self.steps, first=self.settings.asha.first, eta=self.settings.asha.eta)

    @property
    def needs_fixed_order(self) -> bool:
        """Decisions depend on the order in which results count."""
        depends = self.settings.algorithm == "tpe" or self.settings.asha is not None
        return depends and self.settings.order == "fixed"


def advance(plan: SearchPlan, state: SearchState) -> list[JournalRecord]:
    """Takes every decision that is possible now."""
    decisions: list[JournalRecord] = []

    def decide(record: JournalRecord) -> None:
        state.apply(record)
        decisions.append(record)

    if state.end_reason is not None:
        return decisions
    # A kill may have come between a report of NaN and the decision to stop its trial.
    for item in state.unfinished_items:
        if item.reported_step is not None and not item.is_finite:
            decide(mark_nan(item, state))
    # A commit frees a slot, and work in a free slot may make the next commit possible.
    while True:
        idle_reason = _fill_slots(plan, state, decide)
        committable = _next_commit(plan, state)
        if committable is None:
            break
        decide({"k": "commit", "item": committable.number, "at": committable.end_clock})
    # Nothing runs and nothing could be started: the search is over.
    if not state.open_items:
        decide({"k": "end", "why": idle_reason, "steps": plan.steps})
    return decisions


def mark_nan(item: WorkItem, state: SearchState) -> JournalRecord:
    """Ends a trial at a report that is not finite."""
    # Later messages of its process change nothing.
    trial = state.trials[item.trial]
    values = encode_values(trial.curve[item.reported_step or 0])
    return {"k": "done", "item": item.number, "status": "nan", "step": item.reported_step, "values": values} | {
        "run_id": trial.run_id,
        "checkpoint": "",
        "error": f"{state.goals[0].metric} is not finite at step {item.reported_step}",
    }


def _fill_slots(plan: SearchPlan, state: SearchState, decide: Any) -> str:
    """Assigns work to free slots; returns why one stays free."""
    for slot in range(state.width):
        if any(item.slot == slot for item in state.open_items.values()):
            continue
        work = _next_work(plan, state)
        if isinstance(work, str):
            return work
        # The next generation starts with a record of its own; its members have work afterwards.
        if "k" in work:
            decide(work)
            work = _next_work(plan, state)
            assert not isinstance(work, str), "the next generation has members"
        decide({"k": "go", "item": len(state.items), "slot": slot, "at": state.clock, **work})
    return ""


def _next_commit(plan: SearchPlan, state: SearchState) -> WorkItem | None:
    """Item whose result counts next; None while that is uncertain."""
    finished = [item for item in state.open_items.values() if item.result is not None]
    if not finished:
        return None
    if not plan.needs_fixed_order:
        return min(finished, key=lambda item: item.arrival)
    # The earliest by the slots' clocks, but only if no running item can still end before it.
    earliest = min(finished, key=lambda item: (item.end_clock, item.slot))
    return earliest if all(_ends_later(item, earliest) for item in state.unfinished_items) else None


def _ends_later(running: WorkItem, finished: WorkItem) -> bool:
    """A running item certainly ends behind a finished one."""
    if running.reported_clock != finished.end_clock:
        return running.reported_clock > finished.end_clock
    # Equal clocks: it ends later if it still has steps to train; else the slot's number decides.
    has_steps_left = running.is_finite and running.planned_end_clock > running.reported_clock
    return has_steps_left or running.slot > finished.slot


def _next_work(plan: SearchPlan, state: SearchState) -> JournalRecord | str:
    """Work for a free slot, or why there is none.

    A dict {trial, first, last, why} of an item; or a whole record (with `k`) to apply first. A decision about several
    trials is one record, so that a kill cannot split it.
    """
    limit = reached_limit(state.budget, state.usage, plan.costs)
    if limit is not None:
        return limit
    if plan.settings.algorithm == "pbt":
        return _population_work(plan, state)
    # Promote a trial before starting a new one, if the budget allows it.
    if plan.settings.asha is not None:
        promotion = asha.next_promotion(plan.rungs, state.rungs, state.promoted, eta=plan.settings.asha.eta)
        if promotion is not None:
            reached = plan.rungs[promotion[1]]
            if _fits_step_budget(plan, state, cost=reached - plan.rungs[promotion[1] - 1], reached=reached):
                return _promotion_work(plan, promotion, "promoted")
    new = _new_trial(plan, state)
    if not isinstance(new, str) or plan.settings.asha is None or state.open_items:
        return new
    # Nothing runs and there is no new trial: train the best trial so far to the end, as the search's result.
    last = asha.final_promotion(plan.rungs, state.rungs, state.promoted)
    return _promotion_work(plan, last, "finishing") if last is not None else new


def _promotion_work(plan: SearchPlan, promotion: tuple[int, int], why: str) -> JournalRecord:
    """Work of a trial from one rung to the next."""
    trial, rung = promotion
    return {"trial": trial, "first": plan.rungs[rung - 1], "last": plan.rungs[rung], "why": why}


def _fits_step_budget(plan: SearchPlan, state: SearchState, *, cost: int, reached: int) -> bool:
    # Step budget allows this work and one complete training. The work costs `cost` steps and ends at step `reached` of
    # its trial.
    limit = state.budget.steps
    if limit is None:
        return True
    # The complete training continues the trial that has come furthest with a finite score.
    finite = [step for step, rung in state.rungs.items() if any(score is not None for score in rung.values())]
    furthest = max([reached, *finite])
    return state.planned_steps + cost + plan.rungs[-1] - furthest <= limit


def _new_trial(plan: SearchPlan, state: SearchState) -> JournalRecord | str:
    number = len(state.trials)
    if number >= state.trial_limit:
        return f"all {number} trials are done"
    if not _fits_step_budget(plan, state, cost=plan.rungs[0], reached=plan.rungs[0]):
        return f"search.budget.steps={state.budget.steps} is used ({state.usage.total_steps})"
    settings = suggest_settings(number, plan.settings, plan.space, state)
    if settings is None:
        return f"all {number} combinations were tried"
    return {"trial": number, "first": 0, "last": plan.rungs[0], "why": "new", "settings": settings}


def _population_work(plan: SearchPlan, state: SearchState) -> JournalRecord | str:
    # Work of population-based training. Members of a generation are trained in turn. When all have come as far,
    # exploits start the next generation.
    size, every = plan.settings.pbt.population, pbt.generation_steps(plan.settings.pbt, plan.steps)
    first = state.generation * every
    last = min(first + every, plan.steps)
    # A member that was not yet sent to the end of this generation.
    number = next((trial for trial in range(size) if trial not in state.assigned.get(last, ())), None)
    if number is not None:
        work = {"trial": number, "first": first, "last": last, "why": "generation" if first else "new"}
        return work if first else {**work, "settings": plan.space.random(number)}
    if state.open_items:
        return "the generation is not complete"
    # The generation is complete: end here, or start the next one.
    if last >= plan.steps:
        return f"all {size} members are trained"
    if not any(score is not None for score in state.rungs[last].values()):
        return "no member has a finite value"
    if state.budget.steps is not None and state.planned_steps + size * (last - first) > state.budget.steps:
        return f"search.budget.steps={state.budget.steps} is used ({state.usage.total_steps})"
    return _next_generation(plan, state, last)


def _next_generation(plan: SearchPlan, state: SearchState, step: int) -> JournalRecord:
    """All exploits after `step`, in one record."""
    members = {number: trial.settings for number, trial in state.trials.items()}
    exploits = pbt.plan_exploits(
        state.rungs[step], members, settings=plan.settings.pbt, space=plan.space, generation=state.generation
    )
    entries = [
        {"trial": exploit.trial, "donor": exploit.donor, "checkpoint": state.trials[exploit.donor].checkpoint}
        | {"settings": exploit.settings, "segment": state.trials[exploit.trial].segment + 1, "step": step}
        for exploit in exploits
    ]
    return {"k": "exploit", "generation": state.generation + 1, "takeovers": entries}
