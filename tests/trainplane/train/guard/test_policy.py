"""The guard's rules: functions of numbers, the same on every rank and after every resume."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.train.guard.policy import (
    Balance,
    GuardConfig,
    GuardState,
    Observation,
    evaluate,
    evaluate_broken_state,
    merge_bounds,
    norm_limits,
)

D = {"d": Balance(0.1, 2.0, below="D wins", above="D loses", slows_below="d", slows_above="g")}


def seen(index, g=1.0, d=1.0, *, blocked=False, loss_finite=True):
    return Observation(index, {"g": g, "d": d}, blocked or g is None or d is None, loss_finite)


def state(*pending, **values):
    return GuardState(pending=list(pending), **values)


def judged(config, before, done=10, values=None, bounds=None):
    return evaluate(config, before, done=done, values=values or {}, bounds=bounds or {})


def test_sound_steps_are_remembered_and_nothing_is_done():
    after, verdict = judged(GuardConfig(norm_window=4), state(*(seen(i, g=float(i)) for i in range(6))))
    assert (verdict.action, verdict.message) == ("tell", "")
    assert after.norms["g"] == [2.0, 3.0, 4.0, 5.0]
    assert (after.pending, after.faults) == ([], [])


@pytest.mark.parametrize("action", ["skip", "lower_rate", "roll_back", "stop"])
def test_a_step_that_is_not_finite_is_answered_as_configured(action):
    after, verdict = judged(GuardConfig(non_finite=action, rate_factor=0.5), state(seen(7), seen(8, g=None)))
    assert verdict.action == action
    assert "step 9" in verdict.message
    assert after.faults == [8]
    assert after.passed_over == ([8] if action == "roll_back" else [])
    assert after.slowed == ([(10, "*")] if action == "lower_rate" else [])
    assert verdict.rollback_to == (8 if action == "roll_back" else 0)


@pytest.mark.parametrize("action", ["skip", "lower_rate", "roll_back", "stop"])
def test_an_explosion_has_an_answer_of_its_own(action):
    config = GuardConfig(exploding=action, non_finite="skip")
    _, verdict = judged(config, state(seen(8, g=1e6, blocked=True)))
    assert verdict.action == action
    assert "exploding" in verdict.message
    assert "g 1e+06" in verdict.message


def test_a_loss_that_is_not_finite_is_a_fault_though_the_gradients_are():
    _, verdict = judged(GuardConfig(non_finite="roll_back"), state(seen(8, loss_finite=False)))
    assert verdict.action == "roll_back"
    assert "a loss that is not finite in step 9" in verdict.message


def test_more_faults_than_the_budget_stop_the_run_and_rare_ones_never_do():
    config = GuardConfig(budget=2, budget_steps=100)
    for gap, action in ((10, "stop"), (60, "skip")):
        before = state(faults=[])
        for number in range(3):
            index = number * gap
            before, verdict = judged(config, state(seen(index, g=None), faults=before.faults), done=index + 1)
        assert verdict.action == action


def test_nothing_explodes_before_there_is_a_median():
    config = GuardConfig(norm_factor=10.0, norm_window=6)
    assert norm_limits(config, state(norms={"g": [1.0, 2.0]})) == {"g": math.inf}
    assert norm_limits(config, state(norms={"g": [1.0, 2.0, 3.0]})) == {"g": 20.0}
    assert norm_limits(GuardConfig(norm_factor=None), state(norms={"g": [1.0] * 9})) == {"g": math.inf}
    assert norm_limits(config, state(norms={"g": [0.0] * 9})) == {"g": math.inf}


def test_steps_that_a_player_sits_out_do_not_lower_its_limit():
    config = GuardConfig(norm_factor=10.0, norm_window=4)
    after, _ = judged(config, state(*(seen(index, g=2.0 if index % 5 == 4 else 0.0) for index in range(20))))
    assert after.norms["g"] == [2.0] * 4
    assert norm_limits(config, after) == {"g": 20.0, "d": 10.0}


def test_faulty_norms_do_not_move_the_median():
    after, _ = judged(GuardConfig(), state(seen(0, g=1.0), seen(1, g=1e9, blocked=True), seen(2, g=3.0)))
    assert after.norms["g"] == [1.0, 3.0]


@pytest.mark.parametrize(("value", "meaning", "slows"), [(0.01, "D wins", "d"), (3.0, "D loses", "g")])
def test_balance_out_of_bounds_for_long_is_told_once_and_names_who_wins(value, meaning, slows):
    config, before, told = GuardConfig(patience=3), state(), []
    for done in range(2, 20, 2):
        before, verdict = judged(config, before, done, {"d": value}, D)
        told += [verdict.message] if verdict.message else []
    assert len(told) == 1
    assert told[0].startswith(f"{meaning}: d={value:g}")
    config = GuardConfig(patience=1, unbalanced="lower_rate")
    after, verdict = judged(config, state(out_since=4), 10, {"d": value}, D)
    assert (verdict.action, after.slowed, after.out_for) == ("lower_rate", [(10, slows)], 0)
    after, verdict = judged(GuardConfig(patience=1, unbalanced="roll_back"), state(out_since=4), 10, {"d": value}, D)
    assert (verdict.action, verdict.rollback_to, after.slowed) == ("roll_back", 4, [(4, slows)])


def test_balance_that_comes_back_starts_to_count_anew():
    config, before = GuardConfig(patience=2, unbalanced="stop"), state()
    for done, value in enumerate([0.01, 1.0, 0.01, 1.0, 0.01], start=1):
        before, verdict = judged(config, before, done, {"d": value}, D)
        assert verdict.action == "tell"
    assert before.out_for == 1
    assert before.out_since == 4


def test_going_back_for_balance_again_and_again_ends_by_the_budget():
    config = GuardConfig(patience=1, unbalanced="roll_back", budget=3)
    carried, actions = state(), []
    for _ in range(4):
        carried, verdict = judged(config, state().with_amendments_of(carried, step=0), 5, {"d": 9.0}, D)
        actions.append(verdict.action)
    assert actions == ["roll_back"] * 3 + ["stop"]


def test_the_users_bounds_take_the_place_of_the_tasks():
    found = merge_bounds(GuardConfig(balance={"d": [0.5, None], "new": [None, 7.0]}), D)
    assert (found["d"].low, found["d"].high, found["d"].below) == (0.5, None, "D wins")
    assert found["new"].high == 7.0


def test_a_broken_state_is_blamed_on_the_first_faulty_batch_since_the_last_checkpoint():
    before = state(seen(9, g=None), seen(10, g=None), faults=[3])
    after, verdict = evaluate_broken_state(GuardConfig(), before, done=11, last_good=6)
    assert (verdict.action, verdict.rollback_to, after.passed_over) == ("roll_back", 6, [9])
    assert [observation.index for observation in verdict.faulty] == [9]


def test_a_broken_state_without_a_culprit_lowers_the_rates_until_the_budget_is_spent():
    config, carried, actions = GuardConfig(budget=2), state(), []
    for _ in range(3):
        carried, verdict = evaluate_broken_state(config, carried, done=11, last_good=6)
        actions.append(verdict.action)
    assert actions == ["roll_back", "roll_back", "stop"]
    assert carried.passed_over == []
    assert carried.slowed == [(6, "*"), (6, "*")]


def test_a_batch_that_is_passed_over_is_not_judged_again_on_the_replay():
    config = GuardConfig(non_finite="roll_back")
    carried, _ = judged(config, state(seen(8, g=None)))
    # The oldest checkpoint left is from after that step and has seen it.
    replay = state(seen(8, g=None)).with_amendments_of(carried, step=9)
    assert judged(config, replay)[1].action == "tell"


def test_rates_due_before_the_checkpoint_that_is_left_are_lowered_where_it_stands():
    carried = state(slowed=[(2, "*"), (4, "d")])
    assert state(slowed=[(2, "*")]).with_amendments_of(carried, step=6).slowed == [(2, "*"), (6, "d")]


norms = st.one_of(st.none(), st.floats(0, 1e30))


@given(
    st.lists(st.builds(lambda i, g, b: seen(i, g=g, blocked=b), st.integers(0, 99), norms, st.booleans()), max_size=8),
    st.lists(st.integers(0, 99), max_size=5),
)
def test_the_state_survives_json_and_decides_the_same_after_it(pending, faults):
    before = state(*pending, faults=sorted(faults), slowed=[(3, "*")])
    again = GuardState.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert again == before
    assert judged(GuardConfig(), again) == judged(GuardConfig(), before)
