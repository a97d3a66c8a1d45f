"""What the driver does with what trials tell: starts lost ones again, bills time once, forgets nothing it promised."""

import pytest
from search_world import cluster, driver, plan, rising

from trainplane.errors import UserError
from trainplane.search.config import Budget
from trainplane.search.policy.budget import CostRates, check, cost_report, reached_limit
from trainplane.search.run.driver import GONE, Driver, should_retry
from trainplane.search.run.journal import MemoryJournal
from trainplane.storage import StorageError
from trainplane.testing.simulated_search import simulate
from trainplane.train.launch.failure_policy import Cause, cause_of


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def timed(**given):
    made = driver(plan(**given))
    made.clock = Clock()
    return made, made.clock


def test_a_lost_process_is_started_again_and_then_counted_as_failed():
    made, _ = timed(trials=2, retries=2)
    item = made.next_item()
    for attempt in range(3):
        made.on_started(item.number, step=0, run_id="r")
        made.on_failed(item.number, cause=GONE, error="its process was lost")
        following = made.next_item()
        assert (following is item) == (attempt < 2)
    assert made.state.trials[item.trial].status == "failed"
    made.on_done(following.number, status="finished", step=27, values={"v": 1.0})
    assert made.next_item() is None
    # One failed trial does not sink the search.
    assert made.is_over
    assert made.state.trials[following.trial].status == "finished"


@pytest.mark.parametrize(
    ("cause", "worth_it"),
    [
        (GONE, True),
        (Cause.LOST.name, True),
        (Cause.CREDENTIALS.name, True),
        (cause_of(StorageError("no room")).name, True),
        (Cause.CODE.name, False),
        (Cause.USER.name, False),
    ],
)
def test_the_cause_decides_whether_to_try_again(cause, worth_it):
    assert should_retry(cause, failures=1, retries=2) is worth_it
    assert not should_retry(cause, failures=3, retries=2)


def test_divergence_told_by_the_guard_is_nan_not_a_failure():
    made, _ = timed(trials=1)
    item = made.next_item()
    made.on_report(item.number, step=0, values={"v": 1.0})
    made.on_failed(item.number, cause="DIVERGED", error="loss is NaN")
    assert made.next_item() is None
    assert made.state.trials[0].status == "nan"
    assert cost_report(made.state.usage, {0: "nan"}, CostRates(1.0))["waste"]["NaN"]["seconds"] == 0.0


def test_time_is_billed_while_trials_run_and_to_those_that_do():
    made, clock = timed(trials=2)
    clock.now += 50
    first, second = made.next_item(), made.next_item()
    clock.now += 10
    made.on_done(first.number, status="finished", step=27, values={"v": 1.0})
    clock.now += 5
    made.on_done(second.number, status="finished", step=27, values={"v": 2.0})
    clock.now += 1000
    made.tick()
    assert made.state.usage.wall_s == 15
    assert made.state.usage.trial_s == {0: 10.0, 1: 15.0}
    ledger = cost_report(made.state.usage, {0: "finished", 1: "stopped"}, CostRates(2.0, 1.0, price_per_hour=3600.0))
    assert (ledger["cpu_seconds"], ledger["gpu_seconds"], ledger["money"]) == (50.0, 25.0, 25.0)
    assert ledger["waste"]["stopped early"]["seconds"] == 15.0


def test_what_a_process_says_after_its_trial_was_given_up_changes_nothing():
    made, _ = timed(trials=1)
    item = made.next_item()
    assert made.on_report(item.number, step=3, values={"v": float("nan")}) is False
    made.on_done(item.number, status="finished", step=27, values={"v": 9.0})
    made.on_failed(item.number, cause=GONE, error="")
    assert made.next_item() is None
    assert (made.state.trials[0].status, made.state.trials[0].step) == ("nan", 3)


def test_donors_are_pinned_before_anybody_goes_on_and_again_after_a_kill():
    kind = {"algorithm": "pbt", "pbt": {"population": 4, "every": 9}}
    pinned = []
    made = driver(plan(**kind))
    made.pin_donor = pinned.append
    simulate(made, cluster())
    assert [takeover["checkpoint"] for takeover in pinned]
    cut = next(n for n, record in enumerate(made.journal.records) if record["k"] == "exploit") + 1
    again_pinned = []
    resumed = driver(plan(**kind), made.journal.records[:cut])
    resumed.pin_donor = again_pinned.append
    resumed.next_item()
    assert again_pinned == pinned[: len(again_pinned)] != []


def test_the_journal_of_another_search_is_refused():
    made, _ = timed()
    with pytest.raises(UserError, match="belongs to another search"):
        Driver.resume(made.plan, MemoryJournal(made.journal.records), key="other", width=2)


def test_the_number_of_slots_stays_what_it_was():
    made = driver(plan(), width=3)
    assert Driver.resume(made.plan, MemoryJournal(made.journal.records), key="key", width=7).state.width == 3


def test_suggestions_of_an_earlier_search_are_learnt_from():
    prior = [{"settings": {"x": x / 10}, "values": [rising({"x": x / 10}, 0, 27)["v"]]} for x in range(10)]
    made = driver(plan(algorithm="tpe", startup=8, trials=3), prior_results=prior)
    cold = driver(plan(algorithm="tpe", startup=8, trials=3))
    for one in (made, cold):
        simulate(one, cluster())
    warm = [trial.settings["x"] for trial in made.state.trials.values()]
    assert warm != [trial.settings["x"] for trial in cold.state.trials.values()]
    assert min(abs(x - 0.3) for x in warm) < 0.1
    # They stand in the journal: the other search may be gone when this one goes on.
    assert (
        Driver.resume(made.plan, MemoryJournal(made.journal.records), key="key", width=2).state.prior_results == prior
    )


@pytest.mark.parametrize(
    ("budget", "rates", "words"),
    [
        ({"steps": 26}, CostRates(1.0), "less than one trial of 27 steps"),
        ({"money": 1}, CostRates(1.0), "no price is set"),
        ({"gpu_hours": 1}, CostRates(1.0), "use no GPU"),
        ({"cpu_hours": 0.01}, CostRates(2.0), "less than one trial"),
        ({"hours": 0.01}, CostRates(2.0), "less than one trial"),
    ],
)
def test_a_budget_that_is_too_small_for_one_trial_is_refused(budget, rates, words):
    with pytest.raises(UserError, match=words):
        check(Budget(**budget), rates, steps=27, trial_seconds=60.0)


def test_a_limit_is_reached_where_it_says():
    made, clock = timed(trials=1)
    made.next_item()
    clock.now += 36
    made.tick()
    spent = made.state.usage
    assert reached_limit(Budget(cpu_hours=0.02), spent, CostRates(2.0)) is not None
    assert reached_limit(Budget(cpu_hours=0.021), spent, CostRates(2.0)) is None
    assert reached_limit(Budget(hours=0.01, money=100), spent, CostRates(2.0)) is not None
