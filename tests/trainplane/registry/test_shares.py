"""A share of the traffic is a record of the trail, moves no alias, and ends with the alias's next move."""

import pytest

from trainplane.errors import UserError
from trainplane.registry import audit
from trainplane.registry.audit import find_faults, read_trail
from trainplane.registry.shares import current_share, record_share
from trainplane.storage import open_store


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "audit"))


def move(store, version, action="promote"):
    trail = read_trail(store, "isnet")
    words = {"name": "isnet", "alias": "production", "reason": "", "verdict_digest": None}
    audit.append(store, trail, action=action, to_version=version, **words)


def share_now(store):
    return current_share(read_trail(store, "isnet"), "production")


def test_the_last_share_holds_until_the_alias_moves(store):
    move(store, "1")
    assert share_now(store) is None
    record_share(store, "isnet", "2", alias="production", mode="canary", share=0.05, reason="a first look")
    record = record_share(store, "isnet", "2", alias="production", mode="canary", share=0.125, reason="wider: it holds")
    share = share_now(store)
    assert (share.version, share.mode, share.share, share.number) == ("2", "canary", 0.125, record.number)
    assert share.reason == "wider: it holds"
    # No alias has moved, and the chain is sound.
    trail = read_trail(store, "isnet")
    assert (trail.current("production"), trail.previous("production"), trail.aliases()) == ("1", None, ["production"])
    assert trail.impossible_aliases() == []
    assert find_faults(store, "isnet") == []
    move(store, "2")
    assert share_now(store) is None
    # After a rollback the old share does not come back.
    move(store, "1", action="rollback")
    assert share_now(store) is None


def test_of_several_servers_that_replace_one_share_one_writes(store):
    move(store, "1")
    first = record_share(store, "isnet", "2", alias="production", mode="canary", share=0.1, reason="begin")
    words = {"alias": "production", "mode": "off", "reason": "automatic way back: NaN", "expected": first.number}
    written = [record_share(store, "isnet", "2", **words) for _ in range(3)]
    assert [record is not None for record in written] == [True, False, False]
    assert share_now(store).mode == "off"


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_an_impossible_share_is_refused_and_not_recorded(store, share):
    with pytest.raises(UserError, match=r"need more than 0 and at most 1"):
        record_share(store, "isnet", "2", alias="production", mode="canary", share=share, reason="")
    assert read_trail(store, "isnet").records == ()
