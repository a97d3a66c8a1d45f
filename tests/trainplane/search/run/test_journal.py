"""The journal keeps what was written, through torn ends; tells damage; and lets only one process write."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainplane.errors import RunFailed, UserError
from trainplane.search.run.journal import FILE, encode_line, open_journal, parse_lines, read_journal
from trainplane.storage import open_store

RECORDS = [{"k": "tick", "wall": 1.5, "trials": {"0": 1.0}}, {"k": "start", "item": 3}, {"k": "end", "why": "ä\n…"}]


@pytest.fixture(params=["folder", "s3"])
def store(request, tmp_path):
    return open_store(str(tmp_path) if request.param == "folder" else request.getfixturevalue("s3_address"))


def without_facts(records):
    return [{key: value for key, value in record.items() if key not in ("n", "t")} for record in records]


def test_what_was_appended_is_there_in_order(store):
    with open_journal(store, "searches/a") as journal:
        assert journal.records == []
        journal.append(RECORDS[:2])
        journal.append(RECORDS[2:], durable=True)
    with open_journal(store, "searches/a") as journal:
        assert without_facts(journal.records) == RECORDS
        assert [record["n"] for record in journal.records] == [0, 1, 2]
        journal.append(RECORDS[:1])
    assert without_facts(read_journal(store, "searches/a")) == [*RECORDS, RECORDS[0]]
    assert read_journal(store, "searches/other") == []


@given(st.binary(max_size=60), st.integers(0, 300))
def test_a_torn_end_is_cut_off_and_nothing_else(garbage, cut):
    lines = [encode_line({**record, "n": n}) for n, record in enumerate(RECORDS)]
    whole = b"".join(lines)
    torn = whole[: min(cut, len(whole))]
    records, taken = parse_lines(torn, "here")
    assert torn[:taken] == b"".join(lines[: len(records)])
    assert taken + len(lines[len(records)] if len(records) < len(lines) else b"") >= len(torn)
    if not garbage.startswith(lines[0][:4]):
        assert parse_lines(whole + garbage.replace(b"\n", b""), "here")[0] == parse_lines(whole, "here")[0]


def test_a_kill_at_any_byte_of_an_append_loses_that_append_alone(tmp_path):
    store = open_store(str(tmp_path))
    with open_journal(store, "a") as journal:
        journal.append(RECORDS[:2], durable=True)
    path = tmp_path / "a" / FILE
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole)):
        path.write_bytes(whole[:cut])
        with open_journal(store, "a") as journal:
            assert without_facts(journal.records) == RECORDS[:1]
            journal.append([{"k": "start", "item": 9}], durable=True)
        assert without_facts(read_journal(store, "a")) == [RECORDS[0], {"k": "start", "item": 9}]


def test_damage_before_the_end_is_told_and_never_passed_over(tmp_path):
    store, chance = open_store(str(tmp_path)), random.Random(1)
    with open_journal(store, "a") as journal:
        journal.append(RECORDS, durable=True)
    path = tmp_path / "a" / FILE
    whole = path.read_bytes()
    last = whole[:-1].rindex(b"\n") + 1
    for _ in range(50):
        at = chance.randrange(last - 1)
        if whole[at : at + 1] == b"\n":
            continue
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x11]) + whole[at + 1 :])
        with pytest.raises(RunFailed, match="is damaged at record"), open_journal(store, "a"):
            pass
    # A line that is missing altogether is damage, too.
    path.write_bytes(whole[whole.index(b"\n") + 1 :])
    with pytest.raises(RunFailed, match="is damaged at record 0"), open_journal(store, "a"):
        pass


def test_a_second_process_is_refused_in_a_folder(tmp_path):
    store = open_store(str(tmp_path))
    with (
        open_journal(store, "a"),
        pytest.raises(UserError, match="another process runs"),
        open_journal(store, "a"),
    ):
        pass


def test_of_two_processes_on_an_object_store_the_later_one_is_stopped(s3_address):
    store = open_store(s3_address)

    def append_in_turn():
        with open_journal(store, "a") as first, open_journal(store, "a") as second:
            first.append(RECORDS[:1], durable=True)
            second.append([{"k": "start", "item": 1}], durable=True)

    with pytest.raises(RunFailed, match="another process runs"):
        append_in_turn()
    assert without_facts(read_journal(store, "a")) == RECORDS[:1]


def test_numbers_that_are_not_finite_are_no_json():
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_line({"value": float("nan")})


def test_checkpoints_are_found_where_the_store_was_moved_to(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "search-t0" / "step-00000010").mkdir(parents=True)
    recorded = f"{old}/search-t0/step-00000010"
    gone, bucket = f"{old}/search-t1/step-00000010", "s3://bucket/search-t0/step-00000010"
    records = [{"k": "done", "checkpoint": recorded}, {"k": "exploit", "exploits": [{"checkpoint": recorded}]}]
    records += [{"k": "done", "checkpoint": gone}, {"k": "done", "checkpoint": bucket}]
    with open_journal(open_store(str(old)), "searches/mine") as journal:
        journal.append(records, durable=True)
    old.rename(new)
    here = f"{new}/search-t0/step-00000010"
    store = open_store(str(new))
    with open_journal(store, "searches/mine") as journal:
        for read in (journal.records, read_journal(store, "searches/mine")):
            assert read[0]["checkpoint"] == read[1]["exploits"][0]["checkpoint"] == here
            assert [record["checkpoint"] for record in read[2:]] == [gone, bucket]


def test_a_long_journal_is_read_from_few_objects(s3_address, monkeypatch):
    store = open_store(s3_address)
    monkeypatch.setattr("trainplane.search.run.journal.JOIN_EVERY", 5)
    for start in range(0, 12, 6):
        with open_journal(store, "a") as journal:
            for n in range(start, start + 6):
                journal.append([{"k": "start", "item": n}], durable=True)
    with open_journal(store, "a") as journal:
        assert [record["item"] for record in journal.records] == list(range(12))
    read = []
    original = type(store).read
    monkeypatch.setattr(type(store), "read", lambda self, key: read.append(key) or original(self, key))
    assert [record["item"] for record in read_journal(store, "a")] == list(range(12))
    assert read == ["journal-from-start/00000012.jsonl"]
    # A process that was cut off before still cannot write a segment again.
    with open_journal(store, "a") as journal:
        stale = open_store(s3_address).child("a")
        assert not stale.create("journal/00000003.jsonl", b"another's")
        journal.append([{"k": "start", "item": 12}], durable=True)
    assert [record["item"] for record in read_journal(store, "a")] == list(range(13))
