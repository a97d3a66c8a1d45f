"""Who runs and who gives way: by hand, and as properties over random queues."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from trainplane.cluster.jobs.status import JobState
from trainplane.cluster.shared_queue.decide import decide, needs_of, rank
from trainplane.cluster.shared_queue.holder import after_look
from trainplane.cluster.shared_queue.record import ALL, QueueJob, Quotas, Template

CLUSTER = {"CPU": 4.0, "driver": 4.0}
NONE = Quotas()


def job(name, cpus=1.0, *, priority=0, user="ann", state="waiting", at=0.0, **fields):
    template = Template((), "", (), "", {}, {"CPU": cpus, "driver": 1.0}, user=user, priority=priority)
    return QueueJob(name, template, submitted=at, state=state, started=at, **fields)


def acts(jobs, capacity=CLUSTER, quotas=NONE):
    return [(action.kind, action.job) for action in decide(jobs, capacity, quotas).actions]


def test_higher_priorities_start_first_then_older_ones():
    queue = [job("late", 2, at=2), job("early", 2, at=1), job("urgent", 2, priority=5, at=3)]
    assert acts(queue) == [("start", "urgent"), ("start", "early")]


def test_the_lowest_and_youngest_gives_way_and_no_more_than_needed():
    running = [
        job("old", 2, state="running", at=1),
        job("young", 2, state="running", at=2),
        job("higher", 0, priority=1, state="running"),
    ]
    decision = decide([*running, job("urgent", 2, priority=5)], CLUSTER, NONE)
    assert [(a.kind, a.job, a.to) for a in decision.actions] == [("yield", "young", "urgent")]
    # While it gives way nobody else does, and nobody takes its room.
    waits = [job("urgent", 2, priority=5), job("small", 1)]
    yielding = [running[0], replace(running[1], state="yielding"), *waits]
    assert acts(yielding) == []
    assert decide(yielding, CLUSTER, NONE).waiting["small"] == "job urgent is before it"
    # Then the urgent one starts in it.
    assert acts([running[0], replace(running[1], state="waiting"), *waits]) == [("start", "urgent")]


def test_equal_priority_gives_way_to_nobody_and_too_little_room_costs_nothing():
    assert acts([job("a", 4, state="running"), job("b", 1)]) == []
    # One of four CPUs is of lower priority: stopping it would help nobody.
    running = [job("low", 1, state="running"), job("same", 3, priority=5, state="running")]
    decision = decide([*running, job("big", 4, priority=5)], CLUSTER, NONE)
    assert decision.actions == ()
    assert decision.waiting["big"] == "it needs 4 CPU (0 of 4 free)"


def test_a_large_job_is_not_passed_by_small_ones():
    queue = [job("running", 2, state="running"), job("large", 4, at=1), job("small", 1, at=2)]
    assert acts(queue) == []


def test_a_job_larger_than_the_cluster_takes_all_of_it():
    assert acts([job("huge", ALL)]) == [("start", "huge")]
    assert acts([job("huge", ALL), job("one", 1, state="running")]) == []


def test_a_quota_holds_back_its_user_and_nobody_else():
    quotas = Quotas({"CPU": 2.0}, {"bob": {"CPU": 4.0, "jobs": 1.0}})
    queue = [job("ann-1", 2, at=1), job("ann-2", 1, priority=9, at=2), job("bob-1", 1, user="bob", at=3)]
    assert acts(queue, quotas=quotas) == [("start", "ann-2"), ("start", "bob-1")]
    assert "quota of 2 CPU" in decide(queue, CLUSTER, quotas).waiting["ann-1"]
    assert acts([job("b", 0, user="bob", state="running"), job("b2", 0, user="bob")], quotas=quotas) == []


JOBS = st.lists(
    st.builds(
        lambda cpus, priority, user, state, at: (cpus, priority, user, state, at),
        st.integers(0, 6),
        st.integers(-2, 3),
        st.sampled_from(["ann", "bob"]),
        st.sampled_from(["waiting", "running", "yielding"]),
        st.integers(0, 9),
    ),
    max_size=12,
)


def queue_of(drawn, capacity):
    """Jobs of which those that hold room fit into the cluster."""
    queue, used = [], dict.fromkeys(capacity, 0.0)
    for number, (cpus, priority, user, state, at) in enumerate(drawn):
        made = job(f"j{number}", cpus, priority=priority, user=user, state=state, at=at)
        needs = needs_of(made, capacity)
        if made.holds_room and any(used[name] + amount > capacity[name] for name, amount in needs.items()):
            made = replace(made, state="waiting")
        elif made.holds_room:
            used = {name: used[name] + needs.get(name, 0.0) for name in used}
        queue.append(made)
    return queue


@given(JOBS)
def test_no_room_is_given_twice_and_nobody_yields_in_vain(drawn):
    queue = queue_of(drawn, CLUSTER)
    by_id = {each.id: each for each in queue}
    decision = decide(queue, CLUSTER, NONE)
    started = [by_id[action.job] for action in decision.actions if action.kind == "start"]
    yielding = [by_id[action.job] for action in decision.actions if action.kind == "yield"]
    holding = [each for each in queue if each.holds_room]
    for name, amount in CLUSTER.items():
        taken = sum(needs_of(each, CLUSTER).get(name, 0.0) for each in [*holding, *started])
        assert taken <= amount + 1e-6
    assert all(each.state == "waiting" for each in started)
    for action in decision.actions:
        if action.kind == "yield":
            assert by_id[action.job].state == "running"
            assert by_id[action.job].template.priority < by_id[action.to].template.priority
    # With what gives way the one that asked does start, in the next decision.
    if yielding:
        (asked,) = {action.to for action in decision.actions if action.kind == "yield"}
        later = [replace(each, state="running") if each in started else each for each in queue]
        later = [
            replace(each, state="waiting") if each in yielding or each.state == "yielding" else each for each in later
        ]
        assert ("start", asked) in acts(later)
    # Whoever waits is told why.
    waiting = {each.id for each in queue if each.state == "waiting"} - {each.id for each in started}
    assert waiting == set(decision.waiting)


@given(JOBS)
def test_an_empty_cluster_starts_the_first(drawn):
    queue = [replace(each, state="waiting") for each in queue_of(drawn, CLUSTER)]
    if queue:
        assert acts(queue)[0] == ("start", min(queue, key=rank).id)


def seen(status, exit_code=None):
    return JobState("x-1", status, "", "", exit_code, 0, 0)


def test_what_becomes_of_a_job_follows_from_the_cluster():
    running, yielding = job("x", state="running"), job("x", state="yielding", message="it gives way to y")
    assert after_look(running, seen("RUNNING"), 9.0) == running
    assert after_look(running, seen("SUCCEEDED"), 9.0).exit == 0
    assert after_look(running, seen("FAILED", 1), 9.0).state == "ended"
    # Stopped by somebody else, it has ended; stopped by us, it waits in its old place.
    assert after_look(running, seen("STOPPED"), 9.0).state == "ended"
    again = after_look(yielding, seen("STOPPED"), 9.0)
    assert (again.state, again.submitted) == ("waiting", yielding.submitted)
    assert after_look(yielding, seen("FAILED", 130), 9.0).state == "waiting"
    # It was faster than the wish, or failed by itself.
    assert after_look(yielding, seen("SUCCEEDED"), 9.0).exit == 0
    assert after_look(yielding, seen("FAILED", 1), 9.0).status == "FAILED"
    # A head that was killed has forgotten it; one that does not know it yet may be about to get it.
    assert after_look(running, None, 9.0) == running
    assert after_look(running, None, 99.0).state == "waiting"
    assert after_look(replace(running, is_cancelled=True), None, 99.0).state == "ended"


def test_without_a_node_nothing_starts():
    decision = decide([job("a", 2), job("b", 2)], {}, NONE)
    assert decision.actions == ()
    assert set(decision.waiting) == {"a", "b"}


def test_a_cancelled_job_is_room_to_come():
    queue = [
        job("ending", 2, priority=9, state="running", is_cancelled=True),
        job("low", 2, state="running"),
        job("urgent", 2, priority=5),
    ]
    assert acts(queue) == []
