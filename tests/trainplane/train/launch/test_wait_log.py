"""A rank that is asked to stop while it waits for a store."""

import pytest

from trainplane.storage import StoreAway
from trainplane.tracking.tracker import Recorder
from trainplane.train.errors import Halted
from trainplane.train.launch.wait_log import waits_told
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
