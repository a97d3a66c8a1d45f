"""State of a search, folded from its journal.

Pure: no I/O. Trials report facts (`began`, `seen`, `done`, `failed`), the clock reports time (`tick`), and `scheduler`
adds decisions (`go`, `exploit`, `commit`, `end`). A work item trains a trial once, from one step to another; its result
counts when it is committed. JSON has no NaN or infinity, so records store such values as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trainplane.errors import RunFailed
from trainplane.search.config import Budget, Objective
from trainplane.search.policy.budget import SearchUsage
from trainplane.search.run.journal import JournalRecord

Values = dict[str, float]
# `interrupted` is only shown: of a search that does not run, what its journal has as running.
TrialStatus = Literal["running", "resting", "finished", "stopped", "nan", "failed", "interrupted"]
# Format of the journal's records; a journal of another format is refused.
FORMAT_VERSION = 1


@dataclass
class WorkItem:
    """Training of one trial from one step to another."""

    number: int  # Index in `SearchState.items`
    trial: int
    slot: int
    start_clock: float  # Clock of the slot at the start, in training steps
    first_step: int
    last_step: int
    starts: int = 0  # Processes started for it, of which `failures` failed
    failures: int = 0
    reported_step: int | None = None  # Step of the last report with values
    is_finite: bool = True  # The objectives of that report are finite
    result: JournalRecord | None = None  # Its `done` record
    arrival: int = 0  # Position of that record among all `done` records

    @property
    def planned_end_clock(self) -> float:
        """Slot clock at the end of the complete item."""
        return self.start_clock + self.last_step - self.first_step

    @property
    def reported_clock(self) -> float:
        """Slot clock at the last report."""
        if self.reported_step is None:
            return self.start_clock
        return self.start_clock + max(self.reported_step, self.first_step) - self.first_step

    @property
    def end_clock(self) -> float:
        """Slot clock at the actual end of a finished item."""
        assert self.result is not None
        if self.result["status"] == "finished":
            return self.planned_end_clock
        # An item that ended between two reports counts as just behind the first of them.
        return self.reported_clock if not self.is_finite else self.reported_clock + 0.5


@dataclass
class TrialState:
    """One configuration of a search and its progress."""

    number: int
    settings: dict[str, Any]
    status: TrialStatus = "running"  # `resting` is trained to a rung and may be promoted
    step: int = 0  # Last committed step
    values: Values = field(default_factory=dict)  # Metrics at that step
    curve: dict[int, Values] = field(default_factory=dict)  # Reported metrics by step
    run_id: str = ""
    checkpoint: str = ""  # Address of the checkpoint at `step`
    error: str | None = None
    seconds: float = 0.0
    segment: int = 0  # Number of exploits so far (population-based training)
    position: int = 0  # Last known step of the newest process
    donor: dict[str, Any] | None = None  # Last exploit, {donor, checkpoint, step}
    lineage: list[dict[str, Any]] = field(default_factory=list)  # All exploits, each with its settings

    @property
    def highest_step(self) -> int:
        """Highest reported step."""
        return max(self.step, max(self.curve, default=0))


@dataclass
class SearchState:
    """Complete input of the scheduler's decisions."""

    goals: tuple[Objective, ...]  # Objectives; the first one decides
    key: str = ""
    width: int = 1  # Number of slots
    trial_limit: int = 0
    budget: Budget = field(default_factory=Budget)
    trials: dict[int, TrialState] = field(default_factory=dict)
    items: list[WorkItem] = field(default_factory=list)
    open_items: dict[int, WorkItem] = field(default_factory=dict)  # Items without a commit, by number
    arrivals: int = 0  # Number of `done` records
    # Numbers of committed items, in the order in which they counted
    commit_order: list[int] = field(default_factory=list)
    clock: float = 0.0  # Slot clock at the last commit
    # Score by trial at each step that a trial was committed at
    rungs: dict[int, dict[int, float | None]] = field(default_factory=dict)
    promoted: dict[int, list[int]] = field(default_factory=dict)  # Trials that were promoted from a step
    assigned: dict[int, list[int]] = field(default_factory=dict)  # Trials that were sent to a step
    generation: int = 0
    prior_results: list[JournalRecord] = field(default_factory=list)  # Trials of an earlier search, {settings, values}
    usage: SearchUsage = field(default_factory=SearchUsage)
    end_reason: str | None = None  # Reason of the end; None while the search runs

    def apply(self, record: JournalRecord) -> None:
        """Applies one record."""
        try:
            apply = getattr(self, f"_apply_{record['k']}")
        except AttributeError:
            raise RunFailed(
                f"journal has a record of kind {record.get('k')!r}, which this version does not read; "
                "resume the search with the version that wrote it"
            ) from None
        apply(record)

    @property
    def unfinished_items(self) -> list[WorkItem]:
        """Open items without a result."""
        return [item for item in self.open_items.values() if item.result is None]

    @property
    def planned_steps(self) -> int:
        """Committed and assigned steps, each counted once."""
        assigned = sum(item.last_step - item.first_step for item in self.open_items.values())
        return sum(trial.step for trial in self.trials.values()) + assigned

    def pending_exploits(self) -> list[JournalRecord]:
        """Exploits whose taker has not trained since: {trial, checkpoint}."""
        return [
            {"trial": trial.number, "checkpoint": trial.donor["checkpoint"]}
            for trial in self.trials.values()
            if trial.donor is not None and trial.step <= trial.donor["step"]
        ]

    # One method for each kind of record: `_apply_` and the kind.

    def _apply_begin(self, record: JournalRecord) -> None:
        if record["version"] != FORMAT_VERSION:
            raise RunFailed(
                f"journal has format {record['version']}, this version reads {FORMAT_VERSION}; "
                "resume the search with the version that wrote it"
            )
        self.key, self.width = record["key"], record["width"]

    def _apply_width(self, record: JournalRecord) -> None:
        """More trials at once from here on: nodes have come."""
        self.width = record["width"]

    def _apply_driver(self, record: JournalRecord) -> None:
        """Ignores process id and host, written for human readers."""

    def _apply_limits(self, record: JournalRecord) -> None:
        self.trial_limit, self.budget = record["trials"], Budget(**record["budget"])
        # New limits reopen a search that had ended.
        self.end_reason = None

    def _apply_prior(self, record: JournalRecord) -> None:
        self.prior_results = record["trials"]

    def _apply_go(self, record: JournalRecord) -> None:
        """Starts an item, and its trial if new."""
        if "settings" in record:
            self.trials[record["trial"]] = TrialState(record["trial"], _sorted(record["settings"]))
        item = WorkItem(record["item"], record["trial"], record["slot"], record["at"], record["first"], record["last"])
        # Numbers follow the order of `go` records.
        assert item.number == len(self.items)
        self.items.append(item)
        self.open_items[item.number] = item
        self.trials[item.trial].status = "running"
        # Each member of a population is sent once to each step.
        self.assigned.setdefault(item.last_step, []).append(item.trial)
        # An item that does not start at step 0 continues from that rung.
        if item.first_step:
            self.promoted.setdefault(item.first_step, []).append(item.trial)

    def _apply_exploit(self, record: JournalRecord) -> None:
        """Gives members the settings and the checkpoints of their donors."""
        self.generation = record["generation"]
        for exploit in record["takeovers"]:
            trial = self.trials[exploit["trial"]]
            trial.settings, trial.segment = _sorted(exploit["settings"]), exploit["segment"]
            trial.donor = {name: exploit[name] for name in ("donor", "checkpoint", "step")}
            trial.lineage.append({**trial.donor, "settings": trial.settings})
            # A member that failed gets a new start from its donor.
            trial.error = None
            trial.position = exploit["step"]

    def _apply_start(self, record: JournalRecord) -> None:
        self.items[record["item"]].starts += 1

    def _apply_began(self, record: JournalRecord) -> None:
        """A process trains from this step on."""
        trial = self.trials[self.items[record["item"]].trial]
        trial.run_id = record.get("run_id") or trial.run_id
        # Steps that an earlier process trained beyond this one are trained again.
        self.usage.repeated += max(0, trial.position - record["step"])
        trial.position = record["step"]

    def _apply_seen(self, record: JournalRecord) -> None:
        item = self.items[record["item"]]
        trial = self.trials[item.trial]
        step = record["step"]
        trial.position = max(trial.position, step)
        self.usage.steps[trial.number] = max(self.usage.steps.get(trial.number, 0), step)
        if record["values"]:
            values = decode_values(record["values"])
            trial.curve[step] = values
            item.reported_step = step
            # Some metrics come only with the result of an item; a report without them is finite.
            item.is_finite = all(math.isfinite(values.get(goal.metric, 0.0)) for goal in self.goals)

    def _apply_done(self, record: JournalRecord) -> None:
        """A result that waits for its commit."""
        item = self.items[record["item"]]
        trial = self.trials[item.trial]
        self.arrivals += 1
        item.result, item.arrival = record, self.arrivals
        trial.run_id = record["run_id"] or trial.run_id
        trial.seconds += record.get("seconds", 0.0)
        trial.position = max(trial.position, record["step"])
        self.usage.steps[trial.number] = max(self.usage.steps.get(trial.number, 0), record["step"])

    def _apply_failed(self, record: JournalRecord) -> None:
        self.items[record["item"]].failures += 1

    def _apply_commit(self, record: JournalRecord) -> None:
        item = self.open_items.pop(record["item"])
        trial, result = self.trials[item.trial], item.result
        assert result is not None
        self.commit_order.append(item.number)
        self.clock = record["at"]
        trial.error = result.get("error")
        # A result without a checkpoint, such as a failure, leaves the last one.
        trial.checkpoint = result["checkpoint"] or trial.checkpoint
        trial.step = result["step"]
        if result["values"]:
            trial.values = decode_values(result["values"])
            trial.curve[trial.step] = trial.values
        # A trial that was trained to its rung without a finite score counts as NaN.
        is_trained = result["status"] == "finished"
        trial_score = score(trial.values, self.goals[0]) if is_trained else None
        trial.status = "resting" if is_trained else result["status"]
        if is_trained and trial_score is None:
            trial.status = "nan"
        self.rungs.setdefault(item.last_step, {})[item.trial] = trial_score

    def _apply_tick(self, record: JournalRecord) -> None:
        # JSON keys are text.
        self.usage.tick(record["wall"], {int(trial): seconds for trial, seconds in record["trials"].items()})

    def _apply_end(self, record: JournalRecord) -> None:
        self.end_reason = record["why"]
        # Trials that still rest on a rung were stopped early.
        for trial in self.trials.values():
            if trial.status == "resting":
                trial.status = "finished" if trial.step >= record["steps"] else "stopped"


def _sorted(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Sorts keys: live and replayed settings have the same order."""
    return dict(sorted(settings.items()))


def fold(records: Iterable[JournalRecord], goals: tuple[Objective, ...]) -> SearchState:
    """Returns the state after these records."""
    state = SearchState(goals)
    for record in records:
        state.apply(record)
    return state


def score(values: Mapping[str, float], goal: Objective) -> float | None:
    """Objective to maximise; None if missing or not finite."""
    value = values.get(goal.metric, math.nan)
    if not math.isfinite(value):
        return None
    # The scheduler always maximises.
    return value if goal.mode == "max" else -value


def encode_values(values: Mapping[str, float]) -> dict[str, float | str]:
    """Encodes metrics for a record, NaN and infinity as text."""
    return {name: float(value) if math.isfinite(value) else str(float(value)) for name, value in values.items()}


def decode_values(values: Mapping[str, float | str]) -> Values:
    """Decodes the metrics of a record."""
    return {name: float(value) for name, value in values.items()}
