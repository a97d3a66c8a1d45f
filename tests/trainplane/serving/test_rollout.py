"""A candidate that harms goes back at once, and one that its gates refuse never widens."""

import pytest

from trainplane.serving.rollout import Observations, Observed, RolloutRules, judge, next_share

RULES = RolloutRules()
SOUND = Observed(answers=100, milliseconds=(100.0,) * 100)


@pytest.mark.parametrize(
    ("candidate", "action", "reason"),
    [
        (Observed(not_finite=1), "back", "NaN"),
        (Observed(answers=60, errors=3, milliseconds=(100.0,) * 60), "back", "3 failures"),
        # Two failures are no rate yet.
        (Observed(answers=4, errors=2, milliseconds=(100.0,) * 4), "hold", "4 answers of the 50"),
        (Observed(answers=25, milliseconds=(300.0,) * 25), "back", "median 300 ms against 100 ms"),
        (Observed(answers=25, milliseconds=(150.0,) * 25), "hold", "25 answers"),
        (SOUND, "widen", "100 answers"),
    ],
)
def test_what_it_did_decides(candidate, action, reason):
    step = judge(RULES, SOUND, candidate)
    assert step.action == action
    assert reason in step.reason


def test_failures_that_production_has_too_are_not_the_candidates():
    troubled = Observed(answers=90, errors=10, milliseconds=(100.0,) * 90)
    assert judge(RULES, troubled, troubled).action == "widen"


def test_a_slow_answer_of_few_milliseconds_is_nobodys_concern():
    fast, slower = Observed(50, milliseconds=(2.0,) * 50), Observed(50, milliseconds=(9.0,) * 50)
    assert judge(RULES, fast, slower).action == "widen"


def test_gates_hold_a_share():
    assert judge(RULES, SOUND, SOUND, gates_failed=["beats: psnr"]).reason == "gates refuse it: beats: psnr"
    assert judge(RULES, SOUND, SOUND, has_verdicts=False).action == "hold"


def test_shares_widen_by_stages_to_all():
    shares, share = [], 0.03
    while share < 1:
        share = next_share(share)
        shares.append(share)
    assert shares == [0.05, 0.1, 0.25, 0.5, 1.0]
    assert next_share(1.0) == 1.0


def test_observations_are_counted_by_kind():
    observations = Observations()
    observations.answered(12.0)
    observations.failed(not_finite=True)
    observations.failed(not_finite=False)
    assert observations.observed() == Observed(1, 1, 1, (12.0,))
    observations.clear()
    assert observations.observed() == Observed()
