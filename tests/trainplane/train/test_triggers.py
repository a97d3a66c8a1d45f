"""What is due after a step: by steps, by the clock, and because someone has to stop."""

import pytest
from tiny_task import TinyConfig

from trainplane.config.load import build
from trainplane.train.timing import PhaseTimer, advice, shares
from trainplane.train.triggers import Due, FlagExchange, Triggers
from trainplane.train.world import World


class Hands:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def hands():
    return Hands()


def triggers(clock, *, stop=lambda: False, **train):
    values = {"steps": 100, "global_batch": 4, "log_every": 7, "validate_every": 50, "checkpoint_every": 30, **train}
    config = build(TinyConfig, {"name": "t", "data": {"train": "t"}, "train": values}).train
    world = World()
    return Triggers(config, world=world, steps_per_epoch=20, flags=FlagExchange(world), interrupted=stop, clock=clock)


def steps(found, name):
    return [done for done, due in found.items() if getattr(due, name)]


def test_steps_epochs_and_the_end(hands):
    it = triggers(hands, validate_every="2 epochs", checkpoint_every="0.5 epochs")
    found = {done: it.after(done) for done in range(1, 101)}
    assert steps(found, "validate") == [40, 80, 100]
    assert steps(found, "checkpoint") == list(range(10, 101, 10))
    # Every seventh, and at the end of each epoch.
    assert steps(found, "record") == sorted({*range(7, 101, 7), *range(20, 101, 20)})
    assert steps(found, "halt") == []


def test_seconds_are_counted_from_the_last_time(hands):
    it = triggers(hands, checkpoint_every="10s")
    found = {}
    for done in range(1, 30):
        hands.now += 3.0
        found[done] = it.after(done)
    assert steps(found, "checkpoint") == [4, 8, 12, 16, 20, 24, 28]


def test_an_interruption_is_due_at_once_where_there_is_one_rank(hands):
    asked = iter([False, False, True])
    it = triggers(hands, stop=lambda: next(asked))
    assert [it.after(done).halt for done in (1, 2, 3)] == [False, False, True]


def test_nothing_is_due_at_an_ordinary_step(hands):
    assert triggers(hands).after(1) == Due()


def test_the_clock_adds_up_phases_even_where_they_fail():
    clock = PhaseTimer()
    with pytest.raises(ZeroDivisionError), clock.phase("step"):
        _ = 1 / 0
    with clock.phase("step"):
        pass
    assert clock.seconds["step"] > 0


def test_time_that_no_phase_covers_is_the_rest_and_parts_stand_behind_their_phase():
    found = shares({"data": 1.0, "step": 6.0, "step/generator": 4.0, "wall": 10.0})
    assert list(found) == ["step", "step/generator", "rest", "data"]
    assert found["rest"] == pytest.approx(0.3)
    assert shares({}) == {}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ({"data": 5, "step": 5}, "data.loader_workers"),
        ({"validate": 4, "data": 3, "step": 3}, "train.validate_every"),
        ({"checkpoint": 2, "step": 8}, "train.checkpoint_every"),
        ({"checkpoint": 0.8, "step": 8.2}, "the step itself"),
        ({"record": 2, "step": 8}, "train.log_every"),
        ({"data": 1, "step": 9}, "the step itself: model.fast=true, or more train.workers"),
    ],
)
def test_the_first_thing_to_change_is_what_is_furthest_above_its_due(seconds, words):
    assert words in advice({**seconds, "wall": 10.0}, faster_step="model.fast=true")
