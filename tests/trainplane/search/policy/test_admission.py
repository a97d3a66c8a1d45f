"""Nothing that is admitted can wait for ever: a simulated cluster places trials and workers as badly as it likes."""

import random

import pytest
from hypothesis import given
from hypothesis import settings as budget_of_examples
from hypothesis import strategies as st

from trainplane.errors import UserError
from trainplane.search.policy.admission import TRIAL_CPUS, TrialResources, admit

nodes = st.lists(st.tuples(st.sampled_from([0.5, 1.0, 2.0, 4.0, 7.0, 16.0]), st.sampled_from([0.0, 1.0, 2.0, 8.0])))
NODES = nodes.filter(lambda found: 1 <= len(found) <= 5)


class Cluster:
    """Gives a place to whoever asks, on a node of chance among those with room; nothing is given back."""

    def __init__(self, nodes, chance):
        self.free = [list(node) for node in nodes]
        self.chance = chance

    def place(self, cpus, gpus):
        room = [node for node in self.free if node[0] + 1e-9 >= cpus and node[1] + 1e-9 >= gpus]
        if not room:
            return False
        node = self.chance.choice(room)
        node[0] -= cpus
        node[1] -= gpus
        return True


@given(
    st.integers(1, 6),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 1.0]),
    NODES,
    st.integers(1, 50),
    st.one_of(st.none(), st.integers(1, 50)),
    st.integers(0, 999),
)
@budget_of_examples(max_examples=300)
def test_whatever_is_admitted_finds_room_however_it_is_placed(workers, cpus, gpus, nodes, trials, wanted, seed):
    need = TrialResources(workers, cpus, gpus)
    try:
        at_once = admit(need, nodes=nodes, trials=trials, requested=wanted)
    except UserError:
        return
    assert 1 <= at_once <= min(trials, wanted or trials)
    cluster = Cluster(nodes, random.Random(seed))
    # All trials' own processes are there before the first worker, as in the deadlock of others (ray#54305).
    if need.is_group:
        assert all(cluster.place(TRIAL_CPUS, 0.0) for _ in range(at_once))
    assert all(cluster.place(cpus, gpus) for _ in range(at_once * workers))


@given(st.integers(1, 6), st.sampled_from([0.5, 1.0]), NODES)
def test_what_is_refused_has_no_room_and_the_remedy_has(workers, cpus, nodes):
    try:
        admit(TrialResources(workers, cpus), nodes=nodes, trials=9, requested=None)
    except UserError as refusal:
        told = str(refusal).rpartition("set train.workers=")[2]
        fewer, _, each = told.partition(" and train.cpus_per_worker=")
        assert int(fewer) <= workers
        assert admit(TrialResources(int(fewer), float(each or cpus)), nodes=nodes, trials=9, requested=None) >= 1


def test_the_refusal_shows_the_arithmetic():
    with pytest.raises(
        UserError,
        match=r"2 workers × 1 CPUs \+ 0.01 for the trial itself = 2.01, and the cluster has 2; set train.work",
    ):
        admit(TrialResources(2, 1.0), nodes=[(2.0, 0.0)], trials=4, requested=None)


def test_the_deadlock_of_others_is_one_trial_at_a_time_here():
    """Four CPUs, trials of two workers: Tune's own trials hold all four CPUs, and no worker ever starts (M15)."""
    assert admit(TrialResources(2, 1.0), nodes=[(4.0, 0.0)], trials=4, requested=None) == 1
    assert admit(TrialResources(2, 1.0), nodes=[(4.1, 0.0)], trials=4, requested=None) == 2


def test_a_head_without_cpus_takes_no_room_from_the_others():
    assert admit(TrialResources(2, 1.0), nodes=[(0.0, 0.0), (4.5, 0.0)], trials=4, requested=None) == 2


def test_elastic_trials_start_smaller_where_there_is_no_room_for_all():
    assert admit(TrialResources(4, 1.0, min_workers=2), nodes=[(4.0, 0.0)], trials=4, requested=None) == 1
    with pytest.raises(UserError, match=r"set train\.workers=1"):
        admit(TrialResources(4, 1.0, min_workers=2), nodes=[(2.0, 0.0)], trials=4, requested=None)


def test_no_gpu_is_told_so():
    with pytest.raises(UserError, match=r"needs 2 GPUs and the cluster has 0; set train.workers=1 and train.use_gpu"):
        admit(TrialResources(2, 1.0, 1.0), nodes=[(8.0, 0.0)], trials=1, requested=None)
