"""Which version answers: who names one gets it or a refusal, and the share decides for the others."""

import pytest

from trainplane.errors import UserError
from trainplane.serving.routing import TrafficSplit, VersionNotServed, draw, route

BOTH = ("1", "2")


def test_a_named_version_answers_itself_and_nothing_answers_for_it():
    canary = TrafficSplit("1", "2", "canary", 1.0)
    path = route(canary, BOTH, ["1"], "any")
    assert (path.answers, path.fallback, path.mirrored) == (("1",), None, None)
    assert route(canary, BOTH, ["2", "1"], "any").answers == ("2", "1")


@pytest.mark.parametrize("asked", [["3"], ["1", "3"], ["../1"], [""]])
def test_a_version_that_is_not_served_is_refused(asked):
    with pytest.raises(VersionNotServed, match=r"not served here \(served: 1, 2\); name one"):
        route(TrafficSplit("1", "2"), BOTH, asked, "any")


@pytest.mark.parametrize("asked", [["1", "1"], ["1", "2", "3"]])
def test_at_most_two_different_versions_are_named(asked):
    with pytest.raises(UserError, match="at most two different"):
        route(TrafficSplit("1", "2"), BOTH, asked, "any")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_canary_gets_its_share_and_production_stands_behind_it(share):
    names = [f"tr-{number}" for number in range(4000)]
    paths = [route(TrafficSplit("1", "2", "canary", share), BOTH, [], name) for name in names]
    mine = [path for path in paths if path.answers == ("2",)]
    assert abs(len(mine) / len(names) - share) < 0.03
    assert all(path.fallback == "1" for path in mine)
    # The same name, the same route.
    assert paths == [route(TrafficSplit("1", "2", "canary", share), BOTH, [], name) for name in names]


def test_a_shadow_is_mirrored_and_never_shown():
    path = route(TrafficSplit("1", "2", "shadow"), BOTH, [], "any")
    assert (path.answers, path.mirrored) == (("1",), "2")


def test_a_candidate_that_is_not_open_gets_no_traffic():
    assert route(TrafficSplit("1", "2", "canary", 1.0), ("1",), [], "any").answers == ("1",)


def test_shares_add_up():
    split = TrafficSplit("1", "2", "canary", 0.25)
    assert (split.share_of("1"), split.share_of("2"), split.share_of("3")) == (0.75, 0.25, 0.0)
    assert 0 <= min(map(draw, "abc")) <= max(map(draw, "abc")) < 1
