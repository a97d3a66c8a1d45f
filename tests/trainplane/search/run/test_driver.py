"""What the driver does with what trials tell: starts lost ones again, bills time once, forgets nothing it promised."""

import pytest
from search_world import driver, plan, rising, world

from trainplane.errors import UserError
from trainplane.search.config import Budget
from trainplane.search.policy.budget import Rates, check, exhausted, report
from trainplane.search.run.driver import GONE, Driver, again
from trainplane.search.run.journal import Unwritten
from trainplane.testing.simulated_search import simulate


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
    item = made.next()
    for attempt in range(3):
        made.began(item.number, step=0, run_id="r")
        made.failed(item.number, cause=GONE, error="its process was lost")
        following = made.next()
        assert (following is item) == (attempt < 2)
    assert made.state.trials[item.trial].standing == "failed"
    made.done(following.number, status="finished", step=27, values={"v": 1.0})
    assert made.next() is None
    # One failed trial does not sink the search.
    assert made.is_over
    assert made.state.trials[following.trial].standing == "finished"


@pytest.mark.parametrize(
    ("cause", "worth_it"), [(GONE, True), ("LOST", True), ("CREDENTIALS", True), ("CODE", False), ("USER", False)]
)
def test_the_cause_decides_whether_to_try_again(cause, worth_it):
    assert again(cause, failures=1, retries=2) is worth_it
    assert not again(cause, failures=3, retries=2)


def test_divergence_told_by_the_guard_is_nan_not_a_failure():
    made, _ = timed(trials=1)
    item = made.next()
    made.seen(item.number, step=0, values={"v": 1.0})
    made.failed(item.number, cause="DIVERGED", error="loss is NaN")
    assert made.next() is None
    assert made.state.trials[0].standing == "nan"
    assert report(made.state.spent, {0: "nan"}, Rates(1.0))["waste"]["NaN"]["seconds"] == 0.0


def test_time_is_billed_while_trials_run_and_to_those_that_do():
    made, clock = timed(trials=2)
    clock.now += 50
    first, second = made.next(), made.next()
    clock.now += 10
    made.done(first.number, status="finished", step=27, values={"v": 1.0})
    clock.now += 5
    made.done(second.number, status="finished", step=27, values={"v": 2.0})
    clock.now += 1000
    made.tick()
    assert made.state.spent.wall_s == 15
    assert made.state.spent.trial_s == {0: 10.0, 1: 15.0}
    ledger = report(made.state.spent, {0: "finished", 1: "stopped"}, Rates(2.0, 1.0, price_per_hour=3600.0))
    assert (ledger["cpu_seconds"], ledger["gpu_seconds"], ledger["money"]) == (50.0, 25.0, 25.0)
    assert ledger["waste"]["stopped early"]["seconds"] == 15.0


def test_what_a_process_says_after_its_trial_was_given_up_changes_nothing():
    made, _ = timed(trials=1)
    item = made.next()
    assert made.seen(item.number, step=3, values={"v": float("nan")}) is False
    made.done(item.number, status="finished", step=27, values={"v": 9.0})
    made.failed(item.number, cause=GONE, error="")
    assert made.next() is None
    assert (made.state.trials[0].standing, made.state.trials[0].step) == ("nan", 3)


def test_donors_are_pinned_before_anybody_goes_on_and_again_after_a_kill():
    kind = {"algorithm": "pbt", "pbt": {"population": 4, "every": 9}}
    pinned = []
    made = driver(plan(**kind))
    made.pin = pinned.append
    simulate(made, world())
    assert [takeover["checkpoint"] for takeover in pinned]
    cut = next(n for n, record in enumerate(made.journal.records) if record["k"] == "exploit") + 1
    again_pinned = []
    resumed = driver(plan(**kind), made.journal.records[:cut])
    resumed.pin = again_pinned.append
    resumed.next()
    assert again_pinned == pinned[: len(again_pinned)] != []


def test_the_journal_of_another_search_is_refused():
    made, _ = timed()
    with pytest.raises(UserError, match="belongs to another search"):
        Driver.resume(made.plan, Unwritten(made.journal.records), key="other", width=2)


def test_the_number_of_slots_stays_what_it_was():
    made = driver(plan(), width=3)
    assert Driver.resume(made.plan, Unwritten(made.journal.records), key="key", width=7).state.width == 3


def test_suggestions_of_an_earlier_search_are_learnt_from():
    prior = [{"settings": {"x": x / 10}, "values": [rising({"x": x / 10}, 0, 27)["v"]]} for x in range(10)]
    made = driver(plan(algorithm="tpe", startup=8, trials=3), prior=prior)
    cold = driver(plan(algorithm="tpe", startup=8, trials=3))
    for one in (made, cold):
        simulate(one, world())
    warm = [trial.settings["x"] for trial in made.state.trials.values()]
    assert warm != [trial.settings["x"] for trial in cold.state.trials.values()]
    assert min(abs(x - 0.3) for x in warm) < 0.1
    # They stand in the journal: the other search may be gone when this one goes on.
    assert Driver.resume(made.plan, Unwritten(made.journal.records), key="key", width=2).state.prior == prior


@pytest.mark.parametrize(
    ("budget", "rates", "words"),
    [
        ({"steps": 26}, Rates(1.0), "less than one trial of 27 steps"),
        ({"money": 1}, Rates(1.0), "no price is set"),
        ({"gpu_hours": 1}, Rates(1.0), "use no GPU"),
        ({"cpu_hours": 0.01}, Rates(2.0), "less than one trial"),
        ({"hours": 0.01}, Rates(2.0), "less than one trial"),
    ],
)
def test_a_budget_that_is_too_small_for_one_trial_is_refused(budget, rates, words):
    with pytest.raises(UserError, match=words):
        check(Budget(**budget), rates, steps=27, seconds_of_one=60.0)


def test_a_limit_is_reached_where_it_says():
    made, clock = timed(trials=1)
    made.next()
    clock.now += 36
    made.tick()
    spent = made.state.spent
    assert exhausted(Budget(cpu_hours=0.02), spent, Rates(2.0)) is not None
    assert exhausted(Budget(cpu_hours=0.021), spent, Rates(2.0)) is None
    assert exhausted(Budget(hours=0.01, money=100), spent, Rates(2.0)) is not None
