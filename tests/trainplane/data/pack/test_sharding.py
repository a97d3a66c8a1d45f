"""Where shards end depends on the outcomes in their order alone, not on how the work was dealt out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainplane.data.manifest import SkippedFile
from trainplane.data.pack.sharding import Outcome, Sharder, ShardPlan

OUTCOMES = st.lists(
    st.one_of(
        st.integers(1, 500), st.none(), st.builds(SkippedFile, file=st.text(max_size=3), reason=st.just("damaged"))
    ),
    max_size=60,
)


def plans_of(outcomes: list[Outcome], sizes: list[int], *, shard_bytes: int) -> list[ShardPlan]:
    """The cuts when units have these sizes, over and over."""
    sharder = Sharder(number=0, start=0, shard_bytes=shard_bytes)
    plans: list[ShardPlan] = []
    at = unit = 0
    while at < len(outcomes):
        size = sizes[unit % len(sizes)]
        plans += sharder.feed(unit, outcomes[at : at + size])
        at, unit = at + size, unit + 1
    return [*plans, *sharder.finish()]


def entries_of(plans: list[ShardPlan], sizes: list[int]) -> list[list[int]]:
    """The picks of each cut as places in the listing."""
    return [[sum(sizes[n % len(sizes)] for n in range(unit)) + at for unit, at in plan.samples] for plan in plans]


@given(OUTCOMES, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 1500))
def test_units_of_any_size_give_the_same_shards(outcomes: list[Outcome], sizes: list[int], shard_bytes: int) -> None:
    one_by_one = plans_of(outcomes, [1], shard_bytes=shard_bytes)
    dealt = plans_of(outcomes, sizes, shard_bytes=shard_bytes)
    assert entries_of(dealt, sizes) == entries_of(one_by_one, [1])
    assert [(plan.number, plan.start, plan.stop, plan.skipped) for plan in dealt] == [
        (plan.number, plan.start, plan.stop, plan.skipped) for plan in one_by_one
    ]


@given(OUTCOMES, st.integers(1, 1500))
def test_every_entry_lies_in_one_range_and_shards_keep_their_size(outcomes: list[Outcome], shard_bytes: int) -> None:
    plans = plans_of(outcomes, [7], shard_bytes=shard_bytes)
    assert [plan.start for plan in plans] == [0, *[plan.stop for plan in plans]][: len(plans)]
    assert (plans[-1].stop if plans else 0) == len(outcomes)
    for plan, places in zip(plans, entries_of(plans, [7]), strict=True):
        inside = range(plan.start, plan.stop)
        assert places == [at for at in inside if isinstance(outcomes[at], int)]
        assert list(plan.skipped) == [outcomes[at] for at in inside if isinstance(outcomes[at], SkippedFile)]
        assert len(places) == 1 or sum(outcomes[at] for at in places) <= shard_bytes
    # No shard could have taken the first sample of the next.
    for plan, after in zip(entries_of(plans, [7]), entries_of(plans, [7])[1:], strict=False):
        assert sum(outcomes[at] for at in plan) + outcomes[after[0]] > shard_bytes


@given(OUTCOMES, st.integers(1, 1500), st.data())
def test_cutting_goes_on_at_any_shard_as_if_it_had_never_stopped(outcomes, shard_bytes, data) -> None:
    whole = plans_of(outcomes, [1], shard_bytes=shard_bytes)
    if not whole:
        return
    first = data.draw(st.integers(0, len(whole) - 1))
    sharder = Sharder(number=whole[first].number, start=whole[first].start, shard_bytes=shard_bytes)
    rest = [*sharder.feed(0, outcomes[whole[first].start :]), *sharder.finish()]
    assert [(plan.number, plan.start, plan.stop, plan.skipped) for plan in rest] == [
        (plan.number, plan.start, plan.stop, plan.skipped) for plan in whole[first:]
    ]
