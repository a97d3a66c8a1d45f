"""Files are kept for a quarter of an hour and within bytes; a trace takes one vote."""

import pytest

from jobs.serving.kept_fills import KEEP_S, VOTE_S, AlreadyVoted, KeptFills, NotKept
from trainplane.serving.engine import Output, ServedVersion
from trainplane.serving.service import ServingResponse, VersionAnswer


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def response(trace, size=100):
    answer = VersionAnswer("A", ServedVersion("1", "d"), Output(bytes(size), "image/png"), 5.0)
    return ServingResponse(trace, (answer,), False, "facts")


def kept(memory, *traces):
    found = []
    for trace in traces:
        try:
            found.append(len(memory.file(trace, "A").content) > 0)
        except NotKept:
            found.append(False)
    return found


def test_a_file_goes_with_time_and_its_trace_takes_votes_for_a_day():
    clock = Clock()
    memory = KeptFills(now=clock)
    memory.add(response("tr-1"))
    clock.now = KEEP_S
    assert kept(memory, "tr-1") == [True]
    clock.now = KEEP_S + 1
    assert kept(memory, "tr-1") == [False]
    assert memory.vote("tr-1").is_voted
    with pytest.raises(AlreadyVoted, match="has a vote already"):
        memory.vote("tr-1")
    clock.now = VOTE_S + 1
    with pytest.raises(NotKept, match="no fill that this server knows"):
        memory.trace("tr-1")


def test_the_oldest_files_make_room_whatever_was_forgotten_before():
    memory = KeptFills(max_bytes=350, now=Clock())
    for number in range(5):
        memory.add(response(f"tr-{number}"))
    assert kept(memory, "tr-0", "tr-1", "tr-2", "tr-3", "tr-4") == [False, False, True, True, True]
    memory.add(response("large", size=300))
    assert kept(memory, "tr-2", "tr-3", "tr-4", "large") == [False, False, False, True]


def test_a_file_of_another_label_is_not_there():
    memory = KeptFills(now=Clock())
    memory.add(response("tr-1"))
    with pytest.raises(NotKept, match="is not kept any more"):
        memory.file("tr-1", "B")
