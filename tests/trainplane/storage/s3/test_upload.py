"""Parts of a large object are sent several at once, and none stays after a failure."""

import threading

import pytest

from trainplane.storage import StorageError, open_store
from trainplane.storage.s3 import upload
from trainplane.storage.s3.upload import PARTS_AT_ONCE, Upload

DATA = bytes(range(256)) * (1 << 10)


@pytest.fixture
def small_parts(monkeypatch):
    """Parts of 5 MiB, the smallest that a store takes; eight of them and a rest."""
    monkeypatch.setattr(upload, "PART_BYTES", 5 << 20)
    return DATA * 20 * 8 + b"rest"


def test_parts_are_on_their_way_together_and_never_too_many(s3_address, small_parts, monkeypatch):
    put, under_way, most = Upload._put_part, [], []
    together = threading.Barrier(PARTS_AT_ONCE)

    def watched(self, number, part):
        under_way.append(number)
        most.append(len(under_way))
        # The first ones wait for each other: one after the other they would wait for ever.
        if number <= PARTS_AT_ONCE:
            together.wait(timeout=20)
        answer = put(self, number, part)
        under_way.remove(number)
        return answer

    monkeypatch.setattr(Upload, "_put_part", watched)
    store = open_store(s3_address)
    store.write("large", small_parts)
    assert store.read("large") == small_parts
    assert max(most) == PARTS_AT_ONCE


def test_a_part_that_fails_fails_the_object_and_leaves_no_part(s3_address, small_parts, monkeypatch):
    put = Upload._put_part

    def failing(self, number, part):
        if number == 3:
            raise StorageError("the store is away")
        return put(self, number, part)

    monkeypatch.setattr(Upload, "_put_part", failing)
    store = open_store(s3_address)
    with pytest.raises(StorageError, match="away"):
        store.write("large", small_parts)
    assert store.size("large") is None
    assert store.clear_unfinished(lambda key: True) == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("upload")]
