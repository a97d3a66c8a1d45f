"""Waits for a store: those that end with a stop, those before the run was there."""

import pytest

from trainplane.storage import StoreAway
from trainplane.store_wait import STORE_WAITS, Wait, patience
from trainplane.tracking.tracker import Recorder
from trainplane.train.errors import Halted
from trainplane.train.launch.wait_log import WAIT_TAG, ended_wait_tags, waits_told
from trainplane.train.spec import NullProgress
from trainplane.train.world import World


@pytest.mark.parametrize(
    ("size", "is_stopped", "expected"),
    # An error ends the other ranks, which wait in a sum; a rank alone is interrupted.
    [(1, False, StoreAway), (1, True, KeyboardInterrupt), (2, False, StoreAway), (2, True, Halted)],
)
def test_an_outage_ends_a_rank_as_the_others_need_it(size, is_stopped, expected):
    with pytest.raises(expected), waits_told(World(size=size), NullProgress(), Recorder(), lambda: is_stopped):
        raise StoreAway("away")


def test_a_wait_before_the_run_was_there_is_among_its_tags():
    STORE_WAITS.take_ended()
    assert ended_wait_tags() == {}
    STORE_WAITS.begin("k", Wait(0.0, "s3://b: HTTP 503"))
    STORE_WAITS.end("k")
    assert ended_wait_tags()[WAIT_TAG].startswith("waited ")
    assert "s3://b: HTTP 503" in ended_wait_tags()[WAIT_TAG]
    # The ranks still report it once.
    assert len(STORE_WAITS.take_ended()) == 1
    assert ended_wait_tags() == {}


def test_a_wait_of_an_earlier_command_is_no_tag_of_the_next_run():
    STORE_WAITS.begin("k", Wait(0.0, "s3://b: HTTP 503"))
    STORE_WAITS.end("k")
    with patience(is_long=True):
        assert ended_wait_tags() == {}


class Tags(Recorder):
    """Keeps what a run is tagged with."""

    def __init__(self):
        self.tags = {}

    def set_tags(self, tags):
        self.tags.update(tags)


def test_a_wait_before_anybody_listened_is_recorded_and_none_without():
    STORE_WAITS.take_ended()
    told = Tags()
    with waits_told(World(), NullProgress(), told, lambda: False):
        assert told.tags == {}
    STORE_WAITS.begin("k", Wait(0.0, "s3://b: HTTP 503"))
    STORE_WAITS.end("k")
    with waits_told(World(), NullProgress(), told, lambda: False):
        assert told.tags[WAIT_TAG].startswith("waited ")
    STORE_WAITS.take_ended()
