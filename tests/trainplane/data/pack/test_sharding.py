"""Where shards end depends on the outcomes in their order alone, not on how the work was dealt out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainplane.data.manifest import Skipped
from trainplane.data.pack.sharding import Cut, Cutter, Outcome

OUTCOMES = st.lists(
    st.one_of(st.integers(1, 500), st.none(), st.builds(Skipped, file=st.text(max_size=3), reason=st.just("damaged"))),
    max_size=60,
)


def cuts_of(outcomes: list[Outcome], sizes: list[int], *, shard_bytes: int) -> list[Cut]:
    """The cuts when units have these sizes, over and over."""
    cutter = Cutter(number=0, start=0, shard_bytes=shard_bytes)
    cuts: list[Cut] = []
    at = unit = 0
    while at < len(outcomes):
        size = sizes[unit % len(sizes)]
        cuts += cutter.feed(unit, outcomes[at : at + size])
        at, unit = at + size, unit + 1
    return [*cuts, *cutter.finish()]


def entries_of(cuts: list[Cut], sizes: list[int]) -> list[list[int]]:
    """The picks of each cut as places in the listing."""
    return [[sum(sizes[n % len(sizes)] for n in range(unit)) + at for unit, at in cut.picks] for cut in cuts]


@given(OUTCOMES, st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 1500))
def test_units_of_any_size_give_the_same_shards(outcomes: list[Outcome], sizes: list[int], shard_bytes: int) -> None:
    one_by_one = cuts_of(outcomes, [1], shard_bytes=shard_bytes)
    dealt = cuts_of(outcomes, sizes, shard_bytes=shard_bytes)
    assert entries_of(dealt, sizes) == entries_of(one_by_one, [1])
    assert [(cut.number, cut.start, cut.stop, cut.skipped) for cut in dealt] == [
        (cut.number, cut.start, cut.stop, cut.skipped) for cut in one_by_one
    ]


@given(OUTCOMES, st.integers(1, 1500))
def test_every_entry_lies_in_one_range_and_shards_keep_their_size(outcomes: list[Outcome], shard_bytes: int) -> None:
    cuts = cuts_of(outcomes, [7], shard_bytes=shard_bytes)
    assert [cut.start for cut in cuts] == [0, *[cut.stop for cut in cuts]][: len(cuts)]
    assert (cuts[-1].stop if cuts else 0) == len(outcomes)
    for cut, places in zip(cuts, entries_of(cuts, [7]), strict=True):
        inside = range(cut.start, cut.stop)
        assert places == [at for at in inside if isinstance(outcomes[at], int)]
        assert list(cut.skipped) == [outcomes[at] for at in inside if isinstance(outcomes[at], Skipped)]
        assert len(places) == 1 or sum(outcomes[at] for at in places) <= shard_bytes
    # No shard could have taken the first sample of the next.
    for cut, after in zip(entries_of(cuts, [7]), entries_of(cuts, [7])[1:], strict=False):
        assert sum(outcomes[at] for at in cut) + outcomes[after[0]] > shard_bytes


@given(OUTCOMES, st.integers(1, 1500), st.data())
def test_cutting_goes_on_at_any_shard_as_if_it_had_never_stopped(outcomes, shard_bytes, data) -> None:
    whole = cuts_of(outcomes, [1], shard_bytes=shard_bytes)
    if not whole:
        return
    first = data.draw(st.integers(0, len(whole) - 1))
    cutter = Cutter(number=whole[first].number, start=whole[first].start, shard_bytes=shard_bytes)
    rest = [*cutter.feed(0, outcomes[whole[first].start :]), *cutter.finish()]
    assert [(cut.number, cut.start, cut.stop, cut.skipped) for cut in rest] == [
        (cut.number, cut.start, cut.stop, cut.skipped) for cut in whole[first:]
    ]
