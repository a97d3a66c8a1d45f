"""A group that has stopped moving names the rank that it waits for. Without a cluster; times are values."""

import subprocess
import sys

import pytest

from trainplane.config.load import build
from trainplane.errors import UserError
from trainplane.train.launch.heartbeat import dump_stack
from trainplane.train.launch.progress_actor import ProgressActor
from trainplane.train.launch.stall import SILENT_S, START_S, RankPulse, StallWatch
from trainplane.train.pulse import PULSE, WAITING, Pulse, Watched
from trainplane.train.run_config import RunConfig

LIMIT = 60.0


def pulse(rank, *, step=5, phase="step", moves=0):
    return RankPulse(rank, f"host-{rank}", "node", 100 + rank, step, phase, moves, has_trained=step > 1)


class Group:
    """Ranks that beat every two seconds, through the actor, until they are silenced."""

    def __init__(self, ranks=3, *, first_step=4):
        self.watch, self.actor, self.now = StallWatch(LIMIT), ProgressActor(), 0.0
        self.pulses = {rank: pulse(rank, step=first_step) for rank in range(ranks)}
        self.silent = set()
        self.run(4)

    def set(self, rank, **changes):
        self.pulses[rank] = pulse(rank, moves=self.pulses[rank].moves + 1, **changes)

    def run(self, seconds, *, moving=()):
        """Lets time pass; returns the first stall."""
        until = self.now + seconds
        while self.now < until:
            self.now += 2.0
            for rank in moving:
                self.set(rank, step=self.pulses[rank].step, phase=self.pulses[rank].phase)
            for rank in self.pulses.keys() - self.silent:
                self.actor.beat(self.pulses[rank])
            self.watch.update(self.actor.pulses(), now_s=self.now)
            if (stall := self.watch.stall(now_s=self.now)) is not None:
                return stall
        return None


def stuck(stall):
    return [pulse.rank for pulse in stall.stuck]


def group_in_step_5(ranks=3):
    group = Group(ranks)
    for rank in range(ranks):
        group.set(rank, step=5, phase="step")
    assert group.run(2) is None
    return group


@pytest.mark.parametrize("phase", ["data", "step", "checkpoint", "validate"])
def test_the_rank_that_the_others_wait_for_is_named_with_its_phase(phase):
    group = group_in_step_5()
    for rank in (0, 2):
        group.set(rank, step=5, phase=WAITING)
    group.set(1, step=5, phase=phase)
    stall = group.run(2 * LIMIT)
    assert stuck(stall) == [1]
    assert LIMIT <= stall.waited_s < LIMIT + 5
    assert f"waits for rank 1 on host-1 (pid 101) in step 5, phase {phase}" in str(stall)
    assert "does not answer" not in str(stall)


def test_a_process_that_is_stopped_is_silent_and_named_although_it_was_in_a_sum():
    group = group_in_step_5()
    for rank in range(3):
        group.set(rank, step=5, phase=WAITING)
    group.run(2)
    group.silent.add(2)
    stall = group.run(2 * LIMIT)
    assert stuck(stall) == [2]
    assert str(stall).endswith("rank 2 on host-2 (pid 102) in step 5, phase sum, which does not answer")


def test_a_rank_that_stops_in_a_sum_is_told_from_the_others_at_the_shortest_limit():
    group = group_in_step_5()
    for rank in range(3):
        group.set(rank, step=5, phase=WAITING)
    group.run(2)
    group.watch = StallWatch(10.0)
    group.run(2)
    group.silent.add(2)
    stall = group.run(60)
    assert stuck(stall) == [2]
    assert stall.waited_s < 10 + 15


def test_where_all_wait_for_each_other_all_are_named():
    group = group_in_step_5()
    for rank in range(3):
        group.set(rank, step=5, phase=WAITING)
    assert stuck(group.run(2 * LIMIT)) == [0, 1, 2]


def test_a_rank_that_moves_is_no_stall_however_long_the_others_wait():
    group = group_in_step_5()
    assert group.run(20 * LIMIT, moving=[1]) is None
    assert group.run(2 * LIMIT) is not None


def test_before_the_first_step_is_done_there_is_more_time():
    group = Group(first_step=0)
    assert group.run(START_S - 10) is None
    assert stuck(group.run(30)) == [0, 1, 2]
    compiling = Group(first_step=1)
    assert compiling.run(5 * LIMIT) is None
    assert START_S > 5 * LIMIT > SILENT_S


def test_a_pulse_knows_the_phase_and_counts_every_sign_of_life():
    pulse = Pulse()
    with pulse.at("step"):
        with pulse.at(WAITING):
            assert pulse.phase == WAITING
        assert (pulse.phase, pulse.moves) == ("step", 3)
    assert (pulse.phase, pulse.moves) == ("start", 4)
    before = PULSE.moves
    assert list(Watched([1, 2, 3])) == [1, 2, 3]
    assert Watched([1, 2, 3])[1:] == [2, 3]
    assert PULSE.moves >= before + 4


def test_the_stack_of_a_stopped_process_is_read():
    program = "import signal, os\ndef asleep():\n    os.kill(os.getpid(), signal.SIGSTOP)\n"
    program += "print('ready', flush=True)\nasleep()"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            stack = dump_stack(process.pid)
        finally:
            process.kill()
    # Where reading another process is forbidden, the reason takes the place of the stack.
    assert "asleep" in stack or stack.startswith("no stack: ")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"stall_s": 1800}, "a sum would fail before the stall is noticed; set train.stall_s=900"),
        ({"collective_timeout_s": 60}, "set train.stall_s=30"),
        ({"stall_s": 0}, "train.stall_s"),
    ],
)
def test_limits_that_cannot_be_met_are_refused_when_they_are_read(settings, words):
    train = {"steps": 1, "global_batch": 1, **settings}
    with pytest.raises(UserError) as refusal:
        build(RunConfig, {"name": "r", "task": "tiny_task:TinyTask", "data": {"train": "t"}, "train": train})
    assert words in str(refusal.value)
