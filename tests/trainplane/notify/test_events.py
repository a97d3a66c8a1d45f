"""What is told about runs, searches and models, and once only where once is meant."""

import math

from trainplane.notify.event import KINDS, Event, Notice
from trainplane.notify.model_events import alias_moved, alias_moved_by_hand, gate_shut
from trainplane.notify.run_events import NoticeListener, RunFacts, run_ended, run_notice
from trainplane.notify.search_events import budget_near, search_broken
from trainplane.registry.audit import AuditRecord
from trainplane.registry.gates import GateVerdict
from trainplane.search.config import Budget
from trainplane.search.policy.budget import CostRates, SearchUsage, near_limit
from trainplane.train.config import TrainConfig
from trainplane.train.ending import Ending
from trainplane.train.spec import NullProgress

RUN = RunFacts("0123456789abcdef", "demo-1a2b", "http://mlflow/#/runs/0123")


def record(action, number=3):
    return AuditRecord(
        number, "0" * 64, "2026-11-30T12:00:00Z", action, "isnet", "production", "1", "2", "why", "ann@h", None, "n"
    )


def test_the_end_of_a_run_says_how_where_and_why():
    failed = run_ended(RUN, "FAILED", reason="stopped at step 40: NaN", metrics={"val/psnr": math.nan})
    assert (failed.kind, failed.severity) == ("run.failed", "failure")
    assert "stopped at step 40" in failed.text
    assert failed.data["metrics"] == {"val/psnr": None}
    assert run_ended(RUN, "FINISHED", step=8).title == "demo-1a2b finished at step 8"
    assert run_ended(RUN, "KILLED", step=8).kind == "run.stopped"
    # A run that goes on and ends again is told again.
    assert run_ended(RUN, "FINISHED").id != run_ended(RUN, "FINISHED").id


def test_a_notice_is_told_once_however_often_it_is_said():
    told, progress = [], NullProgress()
    listener = NoticeListener(progress, lambda notice: told.append(run_notice(RUN, notice)))
    listener.emit("starting workers")
    for _ in range(2):
        listener.emit(Notice("NaN at step 7", "run.bad_step"))
    listener.emit(Notice("rank 1 on h waits", "run.stalled"))
    assert [event.kind for event in told] == ["run.bad_step", "run.bad_step", "run.stalled"]
    assert len({event.id for event in told}) == 2
    assert all(event.data["run_id"] == RUN.run_id for event in told)


def test_moves_of_an_alias_are_told_by_their_record():
    kinds = {action: alias_moved(record(action)).kind for action in ("promote", "force", "rollback")}
    assert kinds == {"promote": "alias.promoted", "force": "alias.forced", "rollback": "alias.rolled_back"}
    # A promotion that was killed is completed by the next one: the record is the same.
    assert alias_moved(record("promote")).id == alias_moved(record("promote")).id
    assert alias_moved(record("promote")).id != alias_moved(record("promote", 4)).id
    shut = gate_shut("isnet", "2", "production", [GateVerdict("psnr", False, "19 < 20", {})], "ann@h")
    assert "psnr: 19 < 20" in shut.text
    by_hand = [alias_moved_by_hand("isnet", fault).id for fault in ("a", "a", "b")]
    assert len(set(by_hand)) == 2


def test_every_kind_that_is_made_is_one_that_can_be_chosen():
    made = [search_broken("s", "r", reason="x"), search_broken("s", "r", reason=""), budget_near("s", "r", "80 %")]
    assert {event.kind for event in made} <= set(KINDS)
    assert Event.from_json(made[0].to_json()) == made[0]


def test_most_of_a_budget_is_told_before_it_is_used():
    usage = SearchUsage(wall_s=2.9 * 3600, trial_s={0: 3600.0}, steps={0: 80})
    costs = CostRates(cpus=2.0, price_per_hour=1.0)
    assert near_limit(Budget(), usage, costs, share=0.8) is None
    assert near_limit(Budget(hours=4), usage, costs, share=0.8) is None
    assert near_limit(Budget(hours=3.5), usage, costs, share=0.8) == "80% of search.budget.hours=3.5 is used"
    assert near_limit(Budget(steps=100), usage, costs, share=0.8) == "80% of search.budget.steps=100 is used"
    assert near_limit(Budget(cpu_hours=2), usage, costs, share=0.8) == "80% of search.budget.cpu_hours=2 is used"
    # Of a run: its time, once.
    now = [0.0]
    ending = Ending(TrainConfig(steps=9, global_batch=1, max_hours=1), clock=lambda: now[0])
    assert ending.warning() == ""
    now[0] = 0.81 * 3600
    assert ending.warning() == "80% of train.max_hours=1 is used"
    assert ending.warning() == ""
