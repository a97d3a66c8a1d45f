"""A group whose ranks have ended is no stalled one, however long Ray takes to remove it."""

from types import SimpleNamespace

import pytest

from trainplane.errors import RunFailed
from trainplane.train.errors import Stalled
from trainplane.train.launch.progress_actor import ProgressActor
from trainplane.train.launch.stall import RankPulse, StallWatch
from trainplane.train.launch.worker_group import WorkerGroup
from trainplane.train.spec import NullProgress


class Here:
    """The actor's own code in this process, asked as one of Ray."""

    def __init__(self):
        self.actor = ProgressActor()

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def group(monkeypatch, tmp_path):
    """A group whose only rank has done a step and has not moved since, with a limit that is over at once."""
    ray = SimpleNamespace(
        get=lambda answer, timeout=None: answer,
        exceptions=SimpleNamespace(RayError=ConnectionError),
    )
    it = object.__new__(WorkerGroup)
    it.__dict__ = {"_ray": ray, "_actor": Here(), "_watch": StallWatch(0.0), "_num_messages": 0, "_last_progress": None}
    it._has_ended = False
    monkeypatch.setattr("trainplane.train.launch.worker_group.stack_of", lambda ray, pulse: "its stack")
    it._actor.actor.beat(RankPulse(0, "host", "node", 1, 5, "step", 9, has_trained=True))
    it.look = lambda: (it._forward_progress(NullProgress()), it._check_stall(str(tmp_path), NullProgress()))
    return it


def test_ranks_that_stand_still_are_a_stall(group):
    with pytest.raises(Stalled, match=r"rank 0 on host \(pid 1\) in step 5, phase step"):
        group.look()


def test_ranks_that_have_finished_are_none(group):
    group._actor.actor.finish({"step": 5})
    group.look()


def test_ranks_that_have_failed_are_none_and_their_error_stands(group):
    group._actor.actor.fail(RunFailed("the store is full"))
    group.look()
