"""How many ranks there is room for: nodes that leave count for nothing, and after a loss one waits for others."""

import pytest

from trainplane.errors import RunFailed, UserError
from trainplane.train.config import TrainConfig
from trainplane.train.launch import capacity as rooms
from trainplane.train.launch.capacity import ClusterCapacity
from trainplane.train.launch.failure_policy import NodeBlame


class Nodes:
    """Looks like a cluster: CPUs and how many of them are free, by node."""

    def __init__(self, **nodes):
        self.all = nodes

    def is_initialized(self):
        return False

    def cluster_resources(self):
        return {"CPU": float(sum(cpus for cpus, _ in self.all.values()))}

    def available_resources(self):
        return {"CPU": float(sum(free for _, free in self.all.values()))}

    def nodes(self):
        return [
            {"NodeID": name, "Alive": True, "Resources": {"CPU": float(cpus)}} for name, (cpus, _) in self.all.items()
        ]


class Hands:
    """A clock that sleeping moves; `then` happens at a time of its own."""

    def __init__(self):
        self.now, self.then = 0.0, {}

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        for at in [at for at in self.then if at <= self.now]:
            self.then.pop(at)()


@pytest.fixture
def hands(monkeypatch):
    found = Hands()
    monkeypatch.setattr(rooms, "time", found)
    return found


def room(cluster, **train):
    return ClusterCapacity(cluster, TrainConfig(**{"steps": 1, "global_batch": 12, **train}))


@pytest.mark.parametrize(("cpus", "ranks"), [(2, 2), (3, 3), (5, 4), (7, 6), (40, 6)])
def test_it_takes_the_largest_number_that_divides_the_batch_and_fits(hands, cpus, ranks):
    assert room(Nodes(a=(cpus, cpus)), workers=(2, 8)).ranks() == ranks
    assert hands.now == 0


def test_a_rank_does_not_span_two_nodes():
    halves = Nodes(a=(3, 3), b=(3, 3))
    assert room(halves, workers=(1, 8), cpus_per_worker=2).ranks() == 2


def test_what_an_attempt_before_held_is_waited_for_and_others_are_not_for_long(hands):
    cluster = Nodes(a=(4, 1))
    hands.then[5.0] = lambda: cluster.all.update(a=(4, 4))
    assert room(cluster, workers=(1, 4)).ranks() == 4
    assert hands.now == pytest.approx(5, abs=1)
    busy = room(Nodes(a=(4, 2)), workers=(1, 4))
    assert busy.ranks() == 2
    assert hands.now == pytest.approx(5 + rooms.CAPACITY_WAIT_S, abs=2)


def test_too_small_from_the_start_is_the_users_mistake(hands):
    with pytest.raises(
        UserError, match=r"train\.workers=3 × train\.cpus_per_worker=1 need 3 CPUs and the cluster has 2"
    ):
        room(Nodes(a=(2, 2)), workers=3).ranks()
    assert hands.now == 0


def test_nodes_that_went_are_waited_for_and_a_run_of_fixed_size_goes_on_when_one_comes(hands):
    cluster = Nodes(a=(1, 1), b=(1, 1))
    here = room(cluster, workers=2)
    assert here.ranks() == 2
    del cluster.all["b"]
    hands.then[400.0] = lambda: cluster.all.update(c=(1, 1))
    assert here.ranks() == 2
    assert hands.now == pytest.approx(400, abs=2)
    del cluster.all["c"]
    with pytest.raises(RunFailed, match="nodes were lost and not replaced for 15 minutes") as failure:
        here.ranks()
    assert not isinstance(failure.value, UserError)


def test_somebody_who_wants_to_stop_does_not_wait_for_nodes(hands):
    cluster = Nodes(a=(2, 2))
    here = room(cluster, workers=2)
    here.ranks()
    cluster.all.clear()
    with pytest.raises(KeyboardInterrupt):
        here.ranks(interrupted=lambda: hands.now > 3)
    assert hands.now < 5


def test_a_node_that_leaves_is_no_room_and_a_new_one_is(hands, monkeypatch):
    cluster, leaving = Nodes(a=(1, 0), b=(1, 0)), set()
    here = room(cluster, workers=(1, 2))
    monkeypatch.setattr(here, "_leaving", lambda: leaving)
    monkeypatch.setattr(
        here, "_free", lambda: {"CPU": float(sum(f for n, (_, f) in cluster.all.items() if n not in leaving))}
    )
    assert not here.can_grow(2)
    leaving.add("b")
    cluster.all["a"] = (1, 1)
    assert here.ranks() == 1
    # Nothing larger is possible, so nothing is waited for.
    assert hands.now == 0
    cluster.all.update(a=(1, 0), c=(1, 1))
    assert here.can_grow(1)


def test_a_node_whose_gpu_failed_is_left_out_where_others_have_room_and_after_two_failures_always(hands, monkeypatch):
    cluster = Nodes(a=(1, 1), b=(1, 1), c=(1, 1))
    here = room(cluster, workers=(1, 2))
    monkeypatch.setattr(
        here, "_free", lambda: {"CPU": float(sum(f for n, (_, f) in cluster.all.items() if n not in here.excluded))}
    )
    once = NodeBlame((("a", 5),))
    assert here.ranks(blame=once) == 2
    assert here.excluded == {"a"}
    # One rank on the others is better than two with a suspected node among them, none is not.
    del cluster.all["c"]
    assert (here.ranks(blame=once), here.excluded) == (1, {"a"})
    del cluster.all["b"]
    assert (here.ranks(blame=once), here.excluded) == (1, frozenset())
    # A cluster of this command alone gets no other nodes.
    with pytest.raises(RunFailed, match=r"1 of the cluster's nodes are left out because their GPUs failed twice"):
        here.ranks(blame=NodeBlame((("a", 5), ("a", 8))))
