"""What is known of a search: a pure fold over its journal's records.

    fold(records) -> State

Facts come from trials (`began`, `seen`, `done`, `failed`) and the clock (`tick`); decisions from `engine` (`go`,
`exploit`, `commit`, `end`). A trial is trained in *items*: from one step to another, once each. An item's result
counts when it is committed. Numbers that are not finite stand in records as text, since JSON has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainplane.errors import RunFailed
from trainplane.search.config import Budget, Objective
from trainplane.search.policy.budget import Spent
from trainplane.search.run.journal import Record

Values = dict[str, float]
Standing = Literal["running", "resting", "finished", "stopped", "nan", "failed"]
FORMAT_VERSION = 1


@dataclass
class Item:
    """A trial is trained from step `first` to `last` by slot `slot`, beginning `at` (steps of a slot's own clock)."""

    number: int
    trial: int
    slot: int
    at: float
    first: int
    last: int
    starts: int = 0
    lost: int = 0
    seen: int | None = None
    seen_finite: bool = True
    done: Record | None = None
    arrived: int = 0

    @property
    def planned_end(self) -> float:
        return self.at + self.last - self.first

    @property
    def known(self) -> float:
        """How far its slot's clock certainly is."""
        return self.at + (max(self.seen, self.first) - self.first if self.seen is not None else 0)

    @property
    def end(self) -> float:
        """When it ended by its slot's clock. One that ended between two reports: just after the last one."""
        assert self.done is not None
        if self.done["status"] == "finished":
            return self.planned_end
        return self.known if not self.seen_finite else self.known + 0.5


@dataclass
class TrialState:
    """One configuration of a search, and how it stands.

    curve    -- values by step, as they were reported
    position -- the step that its newest process has come to, as far as is known
    """

    number: int
    settings: dict[str, Any]
    standing: Standing = "running"
    step: int = 0
    values: Values = field(default_factory=dict)
    curve: dict[int, Values] = field(default_factory=dict)
    run_id: str = ""
    checkpoint: str = ""
    error: str | None = None
    seconds: float = 0.0
    segment: int = 0
    position: int = 0
    donor: dict[str, Any] | None = None
    lineage: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reached(self) -> int:
        """The highest step known of it."""
        return max(self.step, max(self.curve, default=0))


@dataclass
class State:
    """Everything that decisions depend on.

    open  -- items that are not committed; committed -- numbers of items in the order in which they counted
    now   -- the slots' clock at the last commit
    rungs -- scores by trial of what was committed at a step; promoted -- who went on from there; given_out -- who was
             sent there
    """

    goals: tuple[Objective, ...]
    key: str = ""
    width: int = 1
    trial_limit: int = 0
    budget: Budget = field(default_factory=Budget)
    trials: dict[int, TrialState] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)
    open: dict[int, Item] = field(default_factory=dict)
    arrived: int = 0
    committed: list[int] = field(default_factory=list)
    now: float = 0.0
    rungs: dict[int, dict[int, float | None]] = field(default_factory=dict)
    promoted: dict[int, list[int]] = field(default_factory=dict)
    given_out: dict[int, list[int]] = field(default_factory=dict)
    generation: int = 0
    prior: list[Record] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    ended: str | None = None

    def apply(self, record: Record) -> None:
        """Take one record in."""
        try:
            apply = getattr(self, f"_{record['k']}")
        except AttributeError:
            raise RunFailed(
                f"journal has a record of kind {record.get('k')!r}, which this version does not know; "
                "go on with the version that wrote it"
            ) from None
        apply(record)

    def score(self, values: Mapping[str, float]) -> float | None:
        """The first objective as a number to maximise; None where it is missing or not finite."""
        return score(values, self.goals[0])

    @property
    def pending(self) -> list[Item]:
        """Items that have not ended."""
        return [item for item in self.open.values() if item.done is None]

    @property
    def planned_steps(self) -> int:
        """Steps that are committed or given out, each once."""
        given_out = sum(item.last - item.first for item in self.open.values())
        return sum(trial.step for trial in self.trials.values()) + given_out

    def takeovers_to_come(self) -> list[Record]:
        """Take-overs whose taker has not trained since: {trial, checkpoint}."""
        found = []
        for trial in self.trials.values():
            if trial.donor is not None and trial.step <= trial.donor["step"]:
                found.append({"trial": trial.number, "checkpoint": trial.donor["checkpoint"]})
        return found

    # One method for each kind of record, named after it.

    def _begin(self, record: Record) -> None:
        if record["version"] != FORMAT_VERSION:
            raise RunFailed(
                f"journal has format {record['version']}, this version reads {FORMAT_VERSION}; "
                "go on with the version that wrote it"
            )
        self.key, self.width = record["key"], record["width"]

    def _driver(self, record: Record) -> None:
        """A process began to carry the search on: for whoever reads."""

    def _limits(self, record: Record) -> None:
        self.trial_limit, self.budget = record["trials"], Budget(**record["budget"])
        self.ended = None

    def _prior(self, record: Record) -> None:
        self.prior = record["trials"]

    def _go(self, record: Record) -> None:
        if "settings" in record:
            self.trials[record["trial"]] = TrialState(record["trial"], _sorted(record["settings"]))
        item = Item(record["item"], record["trial"], record["slot"], record["at"], record["first"], record["last"])
        assert item.number == len(self.items)
        self.items.append(item)
        self.open[item.number] = item
        self.trials[item.trial].standing = "running"
        self.given_out.setdefault(item.last, []).append(item.trial)
        if item.first:
            self.promoted.setdefault(item.first, []).append(item.trial)

    def _exploit(self, record: Record) -> None:
        self.generation = record["generation"]
        for one in record["takeovers"]:
            trial = self.trials[one["trial"]]
            trial.settings, trial.segment = _sorted(one["settings"]), one["segment"]
            trial.donor = {name: one[name] for name in ("donor", "checkpoint", "step")}
            trial.lineage.append({**trial.donor, "settings": trial.settings})
            trial.error = None
            trial.position = one["step"]

    def _start(self, record: Record) -> None:
        self.items[record["item"]].starts += 1

    def _began(self, record: Record) -> None:
        """A process trains from this step: what was trained beyond it before is trained once more."""
        trial = self.trials[self.items[record["item"]].trial]
        trial.run_id = record.get("run_id") or trial.run_id
        self.spent.repeated += max(0, trial.position - record["step"])
        trial.position = record["step"]

    def _seen(self, record: Record) -> None:
        item = self.items[record["item"]]
        trial = self.trials[item.trial]
        step = record["step"]
        trial.position = max(trial.position, step)
        self.spent.steps[trial.number] = max(self.spent.steps.get(trial.number, 0), step)
        if record["values"]:
            values = numbers(record["values"])
            trial.curve[step] = values
            item.seen = step
            # A metric that comes with the result alone is not missing yet.
            item.seen_finite = all(math.isfinite(values.get(goal.metric, 0.0)) for goal in self.goals)

    def _done(self, record: Record) -> None:
        """A fact. It counts when it is committed, and no decision depends on it before."""
        item = self.items[record["item"]]
        trial = self.trials[item.trial]
        self.arrived += 1
        item.done, item.arrived = record, self.arrived
        trial.run_id = record["run_id"] or trial.run_id
        trial.seconds += record.get("seconds", 0.0)
        trial.position = max(trial.position, record["step"])
        self.spent.steps[trial.number] = max(self.spent.steps.get(trial.number, 0), record["step"])

    def _failed(self, record: Record) -> None:
        self.items[record["item"]].lost += 1

    def _commit(self, record: Record) -> None:
        item = self.open.pop(record["item"])
        trial, done = self.trials[item.trial], item.done
        assert done is not None
        self.committed.append(item.number)
        self.now = record["at"]
        trial.error = done.get("error")
        trial.checkpoint = done["checkpoint"] or trial.checkpoint
        trial.step = done["step"]
        if done["values"]:
            trial.values = numbers(done["values"])
            trial.curve[trial.step] = trial.values
        score = self.score(trial.values) if done["status"] == "finished" else None
        trial.standing = "resting" if done["status"] == "finished" else done["status"]
        if done["status"] == "finished" and score is None:
            trial.standing = "nan"
        self.rungs.setdefault(item.last, {})[item.trial] = score

    def _tick(self, record: Record) -> None:
        self.spent.tick(record["wall"], {int(trial): seconds for trial, seconds in record["trials"].items()})

    def _end(self, record: Record) -> None:
        self.ended = record["why"]
        for trial in self.trials.values():
            if trial.standing == "resting":
                trial.standing = "finished" if trial.step >= record["steps"] else "stopped"


def _sorted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """In the order in which a journal gives them back, so that nothing can depend on another one."""
    return dict(sorted(settings.items()))


def fold(records: Iterable[Record], goals: tuple[Objective, ...]) -> State:
    """The state after these records."""
    state = State(goals)
    for record in records:
        state.apply(record)
    return state


def score(values: Mapping[str, float], goal: Objective) -> float | None:
    """An objective as a number to maximise; None where it is missing or not finite."""
    value = values.get(goal.metric, math.nan)
    if not math.isfinite(value):
        return None
    return value if goal.mode == "max" else -value


def plain(values: Mapping[str, float]) -> dict[str, float | str]:
    """For a record: what is not finite as text."""
    return {name: float(value) if math.isfinite(value) else str(float(value)) for name, value in values.items()}


def numbers(values: Mapping[str, float | str]) -> Values:
    """Back from a record."""
    return {name: float(value) for name, value in values.items()}
