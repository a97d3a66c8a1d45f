"""A search that was killed at any record goes on as if it had not been, in whatever order results come."""

import math

import pytest
from hypothesis import given
from hypothesis import settings as budget_of_examples
from hypothesis import strategies as st
from search_world import STEPS, cluster, driver, every_fourth_is_nan, outcome, plan, rising

from trainplane.testing.simulated_search import Killed, simulate

TWO = {"x": {"uniform": [0, 1]}, "a": {"uniform": [0, 1]}}
KINDS = {
    "random": {},
    "grid": {"algorithm": "grid", "space": {"x": {"choice": [0.1, 0.2, 0.3, 0.4, 0.5]}}},
    "asha": {"asha": {"first": 1}},
    "tpe": {"algorithm": "tpe", "startup": 4, "trials": 9},
    "tpe and asha": {"algorithm": "tpe", "startup": 4, "asha": {"first": 3}, "trials": 12},
    # Names in another order than a journal's, which sorts them.
    "pbt": {"algorithm": "pbt", "pbt": {"population": 5, "every": 5}, "space": TWO},
    "two settings": {"algorithm": "tpe", "startup": 3, "trials": 7, "asha": {"first": 3}, "space": TWO},
    "steps": {"asha": {"first": 1}, "budget": {"steps": 60}, "trials": 100},
}


def straight(kind, value=rising, **given):
    made = driver(plan(**KINDS[kind]))
    there = cluster(value, **given)
    simulate(made, there)
    return made, there


@pytest.mark.parametrize("value", [rising, every_fourth_is_nan])
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_every_record_it_ends_alike_and_pays_nothing_twice(kind, value):
    made, there = straight(kind, value)
    records = len(made.journal.records)
    assert records > 20
    # `isnet bench search` kills at every record; here at some, and at other ones of each kind.
    for kill_at in range(3 + len(kind) % 5, records, max(1, records // 20)):
        again, later = driver(plan(**KINDS[kind])), cluster(value)
        with pytest.raises(Killed):
            simulate(again, later, kill_at=kill_at)
        again = driver(plan(**KINDS[kind]), again.journal.records)
        simulate(again, later)
        assert outcome(again) == outcome(made), kill_at
        assert later.steps_trained == there.steps_trained, kill_at
        assert again.state.usage.repeated == 0


@pytest.mark.parametrize("kind", KINDS)
def test_it_ends_alike_whoever_is_slow(kind):
    made, _ = straight(kind)
    for slow in range(3):
        again, _ = straight(kind, seconds_per_step=lambda trial, slow=slow: 5.0 if trial % 3 == slow else 1.0)
        assert outcome(again) == outcome(made)


@given(
    st.sampled_from(sorted(KINDS)),
    st.lists(st.integers(4, 400), max_size=4),
    st.integers(0, 3),
    st.integers(1, 4),
    st.lists(st.floats(0.2, 5), min_size=5, max_size=5),
)
@budget_of_examples(max_examples=25, deadline=None)
def test_several_kills_with_trials_of_any_speed(kind, kills, every, report, speeds):
    def there():
        return cluster(
            steps_between_reports=report,
            steps_between_checkpoints=every + 1,
            seconds_per_step=lambda trial: speeds[trial % 5],
        )

    made = driver(plan(**KINDS[kind]), width=3)
    simulate(made, there())
    again, later = driver(plan(**KINDS[kind]), width=3), there()
    for kill_at in sorted(kills):
        try:
            simulate(again, later, kill_at=kill_at)
            break
        except Killed:
            again = driver(plan(**KINDS[kind]), again.journal.records)
    simulate(again, later)
    assert outcome(again) == outcome(made)
    # What was lost lay behind the last checkpoint of a trial under way, and the ledger knows it.
    assert later.steps_trained == made.state.usage.total_steps + again.state.usage.repeated


def test_any_prefix_of_the_journal_is_enough():
    """Whatever prefix of the journal survived: the same end, even where later records are lost with the machine."""
    made, _ = straight("pbt")
    records = len(made.journal.records)
    assert records > 20
    for kept in range(2, records, max(1, records // 30)):
        again = driver(plan(**KINDS["pbt"]), made.journal.records[:kept])
        simulate(again, cluster())
        assert outcome(again) == outcome(made)


def test_nan_is_gone_after_its_first_report_and_is_never_a_survivor():
    made, there = straight("asha", every_fourth_is_nan)
    lost = [trial for trial in made.state.trials.values() if trial.number % 4 == 3]
    assert [(trial.status, trial.step) for trial in lost] == [("nan", 1)] * 4
    assert sum(there.steps_by_trial[trial.number] for trial in lost) == 4
    assert made.state.rungs[1][3] is None
    assert max(made.state.trials.values(), key=lambda t: t.step).number == 0


def test_somebody_is_trained_to_the_end_however_few_there_are():
    for trials in (1, 2, 3, 5):
        made = driver(plan(asha={"first": 1}, trials=trials))
        simulate(made, cluster())
        assert [t.status for t in made.state.trials.values()].count("finished") == 1
        assert made.state.rungs[STEPS]


def test_a_late_trial_overtakes_those_that_rest():
    def late_is_best(settings, trial, step):
        return {"v": float(trial)}

    made = driver(plan(asha={"first": 1}, trials=9))
    simulate(made, cluster(late_is_best))
    assert made.state.trials[8].status == "finished"
    # Ray lets the first arrivals of every rung survive; here they rest until somebody is known to be worse.
    assert made.state.trials[0].step == 1


def test_a_budget_of_steps_is_kept_and_leaves_enough_for_one_trial_to_its_end():
    for limit in (27, 40, 80, 200):
        made = driver(plan(asha={"first": 1}, budget={"steps": limit}, trials=1000))
        simulate(made, cluster())
        assert made.state.usage.total_steps <= limit
        assert STEPS in made.state.rungs


def test_a_budget_of_time_does_not_count_downtime():
    made, there = driver(plan(budget={"hours": 60 / 3600}, trials=1000)), cluster()
    with pytest.raises(Killed):
        simulate(made, there, kill_at=40)
    spent = made.state.usage.wall_s
    there.now += 1e6
    again = driver(plan(budget={"hours": 60 / 3600}, trials=1000), made.journal.records)
    simulate(again, there)
    # Trials of 27 s each in two slots: those under way at the limit are trained to their end.
    assert spent < 60 <= again.state.usage.wall_s <= 60 + 2 * STEPS
    assert again.state.end_reason.startswith("search.budget.hours")


def test_more_trials_go_on_with_the_same_search():
    made = driver(plan(trials=4))
    simulate(made, cluster())
    assert made.is_over
    more = driver(plan(trials=6), made.journal.records)
    there = cluster(checkpoint_steps={f"{n}.0": STEPS for n in range(4)})
    simulate(more, there)
    assert there.steps_trained == 2 * STEPS
    assert outcome(more)[0] == outcome(_finished(plan(trials=6)))[0]


def _finished(made):
    whole = driver(made)
    simulate(whole, cluster())
    return whole


def test_pbt_takes_over_settings_and_weights_of_the_best_and_loses_no_member():
    made, _ = straight("pbt", every_fourth_is_nan)
    assert made.state.end_reason == "all 5 members are trained"
    taken = [(trial.number, one) for trial in made.state.trials.values() for one in trial.lineage]
    # Member 3 reports NaN whatever it takes over, and is given other weights each time.
    assert [number for number, one in taken].count(3) == 5
    assert all(one["donor"] in (0, 1, 2, 4) for _, one in taken)
    assert all(one["checkpoint"].startswith(f"memory/{one['donor']}.") for _, one in taken)
    assert all(0 <= trial.settings["x"] <= 1 for trial in made.state.trials.values())


def test_two_objectives_have_suggestions_of_their_own():
    def both(settings, trial, step):
        return {"v": settings["x"], "w": settings["x"] ** 2}

    goals = [{"metric": "v", "mode": "max"}, {"metric": "w", "mode": "min"}]
    made = driver(plan(objectives=goals, algorithm="tpe", startup=4, trials=12))
    simulate(made, cluster(both))
    assert len({trial.settings["x"] for trial in made.state.trials.values()}) == 12


def test_a_finite_space_is_never_tried_twice():
    made = driver(plan(space={"x": {"choice": [0.1, 0.2, 0.3]}}, trials=20))
    simulate(made, cluster())
    assert sorted(trial.settings["x"] for trial in made.state.trials.values()) == [0.1, 0.2, 0.3]
    assert made.state.end_reason == "all 3 combinations were tried"


def test_values_that_are_not_finite_stand_in_the_journal_and_come_back():
    made, _ = straight("random", lambda settings, trial, step: {"v": math.inf})
    assert all(trial.status == "nan" and trial.values == {"v": math.inf} for trial in made.state.trials.values())


ARRIVAL = {"order": "arrival", "algorithm": "tpe", "startup": 3, "asha": {"first": 3}, "trials": 12}


def uneven(trial):
    return 1.0 + 3.0 * (trial % 3)


def test_results_that_count_as_they_arrive_wait_for_nobody():
    times = {}
    for order in ("fixed", "arrival"):
        made, there = driver(plan(**{**ARRIVAL, "order": order}), width=3), cluster(seconds_per_step=uneven)
        simulate(made, there)
        times[order] = there.now / there.steps_trained
    assert times["arrival"] < 0.9 * times["fixed"]


def test_a_search_by_arrival_is_killed_anywhere_and_keeps_what_it_decided():
    made, there = driver(plan(**ARRIVAL)), cluster(seconds_per_step=uneven)
    simulate(made, there)
    records = made.journal.records
    for kill_at in range(4, len(records), max(1, len(records) // 15)):
        again, later = driver(plan(**ARRIVAL)), cluster(seconds_per_step=uneven)
        with pytest.raises(Killed):
            simulate(again, later, kill_at=kill_at)
        decided = [record for record in again.journal.records if record["k"] in ("go", "commit")]
        again = driver(plan(**ARRIVAL), again.journal.records)
        simulate(again, later)
        assert [r for r in again.journal.records if r["k"] in ("go", "commit")][: len(decided)] == decided
        assert again.is_over
        assert again.state.usage.repeated == 0


def test_a_search_gets_wider_when_nodes_come_and_stays_so_after_a_kill():
    made, there = driver(plan(**ARRIVAL), width=1), cluster()
    made.count_fitting = lambda: 3
    made.clock = there.clock
    made.grow_if_due()
    made.count_fitting = lambda: 2
    there.now += 3600
    made.grow_if_due()
    assert made.state.width == 3
    again = driver(plan(**ARRIVAL), made.journal.records, width=1)
    assert again.state.width == 3
    started = [again.next_item() for _ in range(3)]
    assert [item.slot for item in started] == [0, 1, 2]
    # One that must end alike on any machine does not ask.
    fixed = driver(plan(**{**ARRIVAL, "order": "fixed"}), width=1)
    fixed.count_fitting = lambda: 3
    fixed.grow_if_due()
    assert fixed.state.width == 1
