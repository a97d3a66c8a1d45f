"""Interface of a store, in folders and in S3, and recovery from faults of S3."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.errors import UserError
from trainplane.storage import NoBucket, NotFound, RetryPolicy, StorageError, Store, ensure_bucket, open_store
from trainplane.storage.s3.request import RetryingClient
from trainplane.storage.s3.retry import ConcurrencyLimit, RetryBudget, ThroughputCheck
from trainplane.storage.s3.session import bucket_state

QUICK = RetryPolicy(attempts=6, base_s=0.001, cap_s=0.01, connect_timeout_s=1.0, read_timeout_s=0.5, patience_s=0.4)
MEBIBYTE = 1 << 20


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    address = str(tmp_path / "store") if request.param == "folder" else request.getfixturevalue("s3_address")
    return open_store(address, policy=QUICK)


class TestEveryStore:
    def test_reads_back_what_was_written_whole_and_in_ranges(self, store: Store) -> None:
        store.write("a/b.bin", bytes(range(100)))
        assert store.read("a/b.bin") == bytes(range(100))
        assert store.read("a/b.bin", start=10, length=5) == bytes(range(10, 15))
        assert store.read("a/b.bin", start=95, length=50) == bytes(range(95, 100))
        assert store.read("a/b.bin", start=100) == b""
        assert store.read("a/b.bin", start=3, length=0) == b""
        assert store.size("a/b.bin") == 100

    def test_replaces_and_keeps_empty_objects(self, store: Store) -> None:
        store.write("x", b"old")
        store.write("x", b"")
        assert (store.read("x"), store.size("x")) == (b"", 0)

    def test_writes_files_as_they_are(self, store: Store, tmp_path: Path) -> None:
        source = tmp_path / "source.bin"
        source.write_bytes(random.Random(1).randbytes(9 * MEBIBYTE))
        store.write("copy.bin", source)
        assert store.read("copy.bin") == source.read_bytes()

    def test_absent_objects_are_not_found(self, store: Store) -> None:
        for start, length in ((0, None), (5, 5), (0, 0)):
            with pytest.raises(NotFound):
                store.read("absent", start=start, length=length)
        assert store.size("absent") is None
        store.delete("absent")

    def test_a_folder_is_no_object(self, store: Store) -> None:
        store.write("a/b", b"1")
        assert store.size("a") is None
        with pytest.raises(NotFound):
            store.read("a")
        with pytest.raises(NotFound):
            store.read("a/b/c")

    def test_creates_only_once(self, store: Store) -> None:
        assert store.create("claim", b"first") is True
        assert store.create("claim", b"second") is False
        assert store.read("claim") == b"first"

    def test_replaces_only_what_it_has_seen(self, store: Store) -> None:
        def stamp() -> str:
            return next(store.list("lease")).stamp

        assert store.replace("lease", b"1", stamp="of nothing") is False
        store.write("lease", b"1")
        seen = stamp()
        assert store.replace("lease", b"2", stamp=seen) is True
        assert store.replace("lease", b"3", stamp=seen) is False
        assert store.read("lease") == b"2"
        seen = stamp()
        store.delete("lease")
        assert store.replace("lease", b"5", stamp=seen) is False
        assert store.size("lease") is None

    def test_of_many_that_replace_exactly_one_wins(self, store: Store) -> None:
        store.write("lease", b"0")
        seen = next(store.list("lease")).stamp
        with ThreadPoolExecutor(8) as threads:
            won = list(threads.map(lambda n: store.replace("lease", b"%d" % n, stamp=seen), range(1, 9)))
        assert sum(won) == 1
        assert store.read("lease") == b"%d" % (won.index(True) + 1)

    def test_of_many_creators_exactly_one_wins(self, store: Store) -> None:
        winners: list[int] = []
        threads = [
            threading.Thread(target=lambda n=n: winners.append(n) if store.create("claim", b"%d" % n) else None)
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [b"%d" % n for n in winners] == [store.read("claim")]

    def test_lists_by_text_prefix_in_order_of_key(self, store: Store) -> None:
        for key in ("b", "a/2", "a/1/x", "a-b", "ab"):
            store.write(key, key.encode())
        assert [entry.key for entry in store.list()] == ["a-b", "a/1/x", "a/2", "ab", "b"]
        assert [entry.key for entry in store.list("a/")] == ["a/1/x", "a/2"]
        assert [(entry.key, entry.size) for entry in store.list("ab")] == [("ab", 2)]
        assert list(store.list("c")) == []
        (before,) = store.list("ab")
        assert [before] == list(store.list("ab"))
        # Clocks of file systems tick every few milliseconds.
        time.sleep(0.02)
        store.write("ab", b"AB")
        (after,) = store.list("ab")
        assert (after.size, after.stamp == before.stamp) == (before.size, False)
        store.delete("a/2")
        assert [entry.key for entry in store.list("a/")] == ["a/1/x"]

    def test_a_child_is_the_place_below(self, store: Store) -> None:
        child = store.child("runs/7")
        child.write("x", b"1")
        assert child.address == f"{store.address}/runs/7"
        assert [entry.key for entry in store.list()] == ["runs/7/x"]
        assert [entry.key for entry in child.list()] == ["x"]
        assert open_store(child.address, policy=QUICK).read("x") == b"1"

    @pytest.mark.parametrize("size", [0, 10, 17 * MEBIBYTE])
    def test_a_writer_makes_the_object_appear_at_its_end(self, store: Store, size: int) -> None:
        data = random.Random(size).randbytes(size)
        with store.open_writer("big") as file:
            for start in range(0, size, 3 * MEBIBYTE):
                file.write(data[start : start + 3 * MEBIBYTE])
            assert store.size("big") is None
            assert file.tell() == size
        assert store.read("big") == data

    def test_a_writer_that_fails_leaves_nothing(self, store: Store) -> None:
        def write_and_fail() -> None:
            with store.open_writer("big") as file:
                file.write(bytes(9 * MEBIBYTE))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            write_and_fail()
        assert store.size("big") is None
        assert list(store.list()) == []

    def test_survives_pickling_and_other_processes(self, store: Store) -> None:
        store.write("x", b"here")
        twin = pickle.loads(pickle.dumps(store))
        assert twin.address == store.address
        for method in ("fork", "spawn"):
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert pool.apply(store.read, ("x",)) == b"here"

    @pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/../b", "a/.", "a\nb", "a\\b", ".part~x", "a" * 2000])
    def test_refuses_keys_that_are_not_portable(self, store: Store, key: str) -> None:
        for verb in (store.read, store.size, store.delete, store.child):
            with pytest.raises(UserError):
                verb(key)
        with pytest.raises(UserError):
            store.write(key, b"")

    def test_keeps_keys_of_any_script(self, store: Store) -> None:
        store.write("café/猫 +%.json", b"1")
        assert [entry.key for entry in store.list()] == ["café/猫 +%.json"]
        assert store.read("café/猫 +%.json") == b"1"


@pytest.mark.parametrize(("sound", "spoilt"), [(b"-", b"0"), (b"Size>", b"Sizf>")], ids=["a date", "a field"])
def test_a_listing_with_bytes_spoilt_on_the_way_is_asked_for_again(
    s3_address: str, sound: bytes, spoilt: bytes
) -> None:
    store = open_store(s3_address, policy=QUICK)
    store.write("a", b"1")
    bodies: list[bytes] = []

    def spoil(response_dict: dict[str, Any], **_: object) -> None:
        bodies.append(response_dict["body"])
        if len(bodies) == 1:
            response_dict["body"] = response_dict["body"].replace(sound, spoilt)

    bucket = s3_address.removeprefix("s3://").partition("/")[0]
    client = bucket_state(bucket, QUICK).clients.get(QUICK.timeout_s(0, is_read=False))
    client.meta.events.register("before-parse.s3.ListObjectsV2", spoil)
    try:
        assert [(entry.key, entry.size) for entry in store.list()] == [("a", 1)]
    finally:
        client.meta.events.unregister("before-parse.s3.ListObjectsV2", spoil)
    assert (len(bodies), sound in bodies[0]) == (2, True)


class TestAddresses:
    @pytest.mark.parametrize(
        ("address", "meant"),
        [("s3://bucket", "s3://bucket"), ("s3://bucket/a/b/", "s3://bucket/a/b"), ("file:///a/b%20c", "/a/b c")],
    )
    def test_says_what_it_opened(self, address: str, meant: str) -> None:
        assert open_store(address).address == meant

    def test_relative_folders_are_made_absolute(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert open_store("data/x").address == str(tmp_path / "data/x")

    @pytest.mark.parametrize(
        "address", ["", "gs://bucket", "s3://", "s3://Bucket/x", "s3://ab", "s3://a..b/x", "file://host/x"]
    )
    def test_refuses_what_is_no_address(self, address: str) -> None:
        with pytest.raises(UserError, match=r"need|give"):
            open_store(address)

    def test_does_not_repeat_a_secret_in_an_address(self) -> None:
        with pytest.raises(UserError) as refused:
            open_store("s3://AKIAKEY:hunter2@bucket/prefix")
        assert "hunter2" not in str(refused.value)


class TestFolders:
    def test_unfinished_files_are_never_listed(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        with store.open_writer("x") as file:
            file.write(b"half")
            assert len(list(tmp_path.iterdir())) == 1
            assert list(store.list()) == []

    def test_folders_go_with_their_last_file_and_the_store_stays(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path / "store"))
        for key in ("a/b/c", "a/d"):
            store.write(key, b"1")
        (tmp_path / "store" / "a" / "mine").mkdir()
        store.delete("a/b/c")
        assert not (tmp_path / "store" / "a" / "b").exists()
        store.delete("a/d")
        assert (tmp_path / "store" / "a" / "mine").is_dir()
        store.child("x").write("y", b"1")
        store.child("x").delete("y")
        assert (tmp_path / "store" / "x").is_dir()

    def test_who_writes_into_a_folder_that_is_being_emptied_does_not_notice(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))

        def write_and_delete(name: str) -> None:
            for turn in range(150):
                key = f"a/b/{name}-{turn}"
                (store.create if turn % 2 else store.write)(key, b"1")
                assert store.read(key) == b"1"
                store.delete(key)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write_and_delete, "abcd"))
        assert list(tmp_path.iterdir()) == []

    def test_says_when_a_folder_may_not_be_used(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(b"")
        store = open_store(str(tmp_path / "file" / "below"))
        with pytest.raises(StorageError, match="check the folder"):
            store.write("x", b"1")
        with pytest.raises(StorageError, match="check the folder"):
            ensure_bucket(store.address)
        ensure_bucket(str(tmp_path / "new" / "folder"))
        assert (tmp_path / "new" / "folder").is_dir()


class TestS3Faults:
    @pytest.mark.parametrize("fault", ["500", "503", "reset", "short", "lying", "stall", "slow", "expired"])
    def test_reading_gets_over_each_fault(self, faulty_s3, s3_address: str, fault: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        data = random.Random(3).randbytes(3 * MEBIBYTE)
        store.write("x", data)
        faulty_s3.fault = lambda method, path, number: fault if method == "GET" and number % 2 == 0 else None
        for start, length in ((0, None), (7, None), (1000, 2 * MEBIBYTE), (2 * MEBIBYTE, 5 * MEBIBYTE)):
            end = None if length is None else start + length
            assert store.read("x", start=start, length=length) == data[start:end]

    def test_broken_bodies_are_resumed_where_they_broke(self, faulty_s3, s3_address: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        data = random.Random(4).randbytes(8 * MEBIBYTE)
        store.write("x", data)
        before = faulty_s3.requests
        # Each answer brings half of what is missing: far more broken connections than attempts are allowed.
        faulty_s3.fault = lambda method, path, number: "short" if number - before <= 10 else None
        assert store.read("x") == data
        assert faulty_s3.requests - before == 11

    def test_a_slow_connection_is_given_up_for_another_at_the_offset_reached(self, faulty_s3, s3_address: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        data = random.Random(6).randbytes(MEBIBYTE)
        store.write("x", data)
        before = faulty_s3.requests
        faulty_s3.fault = lambda method, path, number: "slow" if number == before + 1 else None
        started = time.monotonic()
        assert store.read("x") == data
        assert faulty_s3.requests - before == 2
        assert time.monotonic() - started < 20  # the whole of it takes 105 s at 10 kB/s

    def test_silence_is_cut_short_whatever_went_before_and_a_slow_store_is_waited_for(
        self, faulty_s3, s3_address: str
    ) -> None:
        store = open_store(s3_address, policy=replace(QUICK, patience_s=0.2, read_timeout_s=5.0))
        store.write("x", bytes(5000))
        faults = {faulty_s3.requests + n: fault for n, fault in enumerate(("503", "stall", "500", "stall"), 1)}
        faulty_s3.fault = lambda method, path, number: faults.get(number)
        started = time.monotonic()
        assert store.read("x") == bytes(5000)
        assert time.monotonic() - started < 4

        def take_time(method: str, path: str, number: int) -> None:
            time.sleep(0.6)

        faulty_s3.fault = take_time
        before = faulty_s3.requests
        assert store.read("x") == bytes(5000)
        assert faulty_s3.requests - before == 2

    def test_a_line_that_is_slow_as_a_whole_is_put_up_with(self, faulty_s3, s3_address: str) -> None:
        policy = replace(QUICK, least_bytes_per_s=1e9, patience_s=0.01, read_timeout_s=5.0)
        store = open_store(s3_address, policy=policy)
        data = random.Random(7).randbytes(24_000)
        store.write("x", data)
        before = faulty_s3.requests
        faulty_s3.fault = lambda method, path, number: "slow"
        assert store.read("x") == data
        # Only half of the budget goes into looking for a better connection.
        assert faulty_s3.requests - before <= 60
        faulty_s3.fault = lambda method, path, number: "500" if number % 2 else None
        assert store.read("x") == data

    def test_a_dead_store_does_not_multiply_requests_and_takes_no_retries_from_another(
        self, faulty_s3, s3_address: str
    ) -> None:
        policy = replace(QUICK, base_s=0.0001, cap_s=0.0001)
        dead, other = (
            open_store(s3_address, policy=policy),
            open_store(f"{s3_address.rpartition('-')[0]}-b", policy=policy),
        )
        ensure_bucket(other.address)
        other.write("x", b"1")
        faulty_s3.fault = lambda method, path, number: None if "-other" in path else "500"
        before = faulty_s3.requests
        reads = 60
        for _ in range(reads):
            with pytest.raises(StorageError, match="keeps failing"):
                dead.read("x")
        assert faulty_s3.requests - before <= reads + RetryBudget().capacity
        faulty_s3.fault = lambda method, path, number: "500" if number % 2 else None
        assert [other.read("x") for _ in range(20)] == [b"1"] * 20

    def test_an_answer_of_another_range_is_not_taken(self, faulty_s3, s3_address: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        data = random.Random(8).randbytes(4000)
        store.write("x", data)
        before = faulty_s3.requests
        faulty_s3.fault = lambda method, path, number: "elsewhere" if number == before + 1 else None
        assert store.read("x", start=1000, length=500) == data[1000:1500]
        assert faulty_s3.requests - before == 2

    def test_an_object_replaced_while_read_is_never_mixed(self, faulty_s3, s3_address: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        first, second = bytes(2 * MEBIBYTE), bytes([1]) * (2 * MEBIBYTE)
        store.write("x", first)
        upstream = []

        def replace_once(method: str, path: str, number: int) -> str | None:
            if method == "GET" and not upstream:
                upstream.append(number)
                return "short"
            if method == "GET" and len(upstream) == 1:
                upstream.append(number)
                store.write("x", second)
            return None

        faulty_s3.fault = replace_once
        assert store.read("x") == second

    @pytest.mark.parametrize("fault", ["500", "503", "reset", "expired"])
    def test_writing_gets_over_each_fault(self, faulty_s3, s3_address: str, fault: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        faulty_s3.fault = lambda method, path, number: fault if number % 2 else None
        data = random.Random(5).randbytes(17 * MEBIBYTE)
        with store.open_writer("big") as file:
            file.write(data)
        store.write("small", b"1")
        assert store.read("big") == data
        assert [entry.size for entry in store.list()] == [len(data), 1]
        store.delete("big")
        assert store.size("big") is None

    def test_a_creator_whose_answer_was_lost_still_learns_that_it_won(self, faulty_s3, s3_address: str) -> None:
        store = open_store(s3_address, policy=QUICK)
        faulty_s3.fault = lambda method, path, number: "reset" if number == 1 else None
        assert store.create("claim", b"mine") is True
        assert store.create("claim", b"other") is False

    def test_one_that_replaces_and_whose_answer_was_lost_still_learns_that_it_won(
        self, faulty_s3, s3_address: str
    ) -> None:
        store = open_store(s3_address, policy=QUICK)
        store.write("lease", b"1")
        seen, first = next(store.list()).stamp, faulty_s3.requests + 1
        faulty_s3.fault = lambda method, path, number: "reset" if number == first else None
        assert store.replace("lease", b"2", stamp=seen) is True
        assert store.replace("lease", b"3", stamp=seen) is False

    def test_gives_up_in_a_sentence_without_secrets(self, faulty_s3, s3_address: str, monkeypatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        monkeypatch.setenv("AWS_ENDPOINT_URL", faulty_s3.endpoint.replace("//", "//user:hunter2@"))
        store = open_store(s3_address, policy=QUICK)
        faulty_s3.fault = lambda method, path, number: "500"
        with pytest.raises(StorageError, match=r"keeps failing \(InternalError\)") as failed:
            store.read("x")
        assert "hunter2" not in str(failed.value)
        assert faulty_s3.requests == QUICK.attempts

    def test_an_endpoint_that_is_not_there_is_said_to_be_so(self, s3_server: str, monkeypatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(StorageError, match=r"127\.0\.0\.1:9 keeps failing"):
            open_store("s3://bucket/x", policy=QUICK).read("x")

    def test_a_malformed_endpoint_is_the_users_mistake(self, s3_server: str, monkeypatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "not an address")
        with pytest.raises(UserError, match="AWS_ENDPOINT_URL"):
            open_store("s3://bucket/x").read("x")

    def test_slow_down_lets_fewer_requests_be_under_way(self, faulty_s3, s3_address: str) -> None:
        store = open_store(s3_address, policy=replace(QUICK, base_s=0.02, cap_s=0.05, attempts=12))
        store.write("x", bytes(1000))
        under_way, most_after = [0], [0]
        lock = threading.Lock()
        refused = set(range(faulty_s3.requests + 1, faulty_s3.requests + 33))

        def measure(method: str, path: str, number: int) -> str | None:
            with lock:
                under_way[0] += 1
                if number > max(refused) + 16:
                    most_after[0] = max(most_after[0], under_way[0])
            time.sleep(0.02)
            with lock:
                under_way[0] -= 1
            return "503" if number in refused else None

        faulty_s3.fault = measure
        with ThreadPoolExecutor(32) as threads:
            assert list(threads.map(store.read, ["x"] * 100)) == [bytes(1000)] * 100
        assert 1 <= most_after[0] <= 24  # 32 before

    def test_many_threads_that_find_their_session_expired_make_one_new(self, faulty_s3, s3_address: str) -> None:
        policy = replace(QUICK, read_timeout_s=5.0)
        store = open_store(s3_address, policy=policy)
        store.write("x", b"1")
        clients = bucket_state(store.address.split("/")[2], policy).clients
        first = clients.get(5.0)
        expired = set(range(faulty_s3.requests + 1, faulty_s3.requests + 9))
        everyone = threading.Barrier(8)

        def fault(method: str, path: str, number: int) -> str | None:
            if number in expired:
                everyone.wait(timeout=20)
                return "expired"
            return None

        faulty_s3.fault = fault
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(store.read, ["x"] * 8)) == [b"1"] * 8
        second = clients.get(5.0)
        assert second is not first
        clients.discard(first)  # a straggler's
        assert clients.get(5.0) is second

    def test_a_missing_bucket_is_named(self, s3_server: str) -> None:
        store = open_store("s3://no-such-bucket/x", policy=QUICK)
        # It says nothing about any object: a caller that handles NotFound must not handle this.
        for verb in (lambda: store.read("x"), lambda: list(store.list()), lambda: store.write("x", b"y")):
            with pytest.raises(NoBucket, match="no-such-bucket"):
                verb()
        ensure_bucket(store.address)
        ensure_bucket(store.address)
        assert list(store.list()) == []

    def test_a_clock_that_is_wrong_is_said_to_be_so(self) -> None:
        from botocore.exceptions import ClientError

        def skewed(client: object) -> None:
            refusal = {"Error": {"Code": "RequestTimeTooSkewed"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
            raise ClientError(refusal, "GetObject")

        with pytest.raises(StorageError, match="set the clock"):
            RetryingClient("bucket", "s3://bucket", QUICK).call("read x", skewed)

    def test_refused_credentials_are_said_to_be_so(self) -> None:
        from botocore.exceptions import ClientError

        from trainplane.storage.s3.errors import Reaction, classify

        refusal = {"Error": {"Code": "SignatureDoesNotMatch"}, "ResponseMetadata": {"HTTPStatusCode": 403}}
        assert classify(ClientError(refusal, "GetObject")) is Reaction.FORBIDDEN


class TestRetryDecisions:
    @settings(deadline=None)
    @given(failures=st.integers(1, 10_000), chance=st.floats(0, 1, exclude_max=True))
    def test_delays_are_jittered_below_a_growing_bound(self, failures: int, chance: float) -> None:
        policy = RetryPolicy()
        assert (
            0 <= policy.delay_s(failures, chance) <= min(policy.cap_s, policy.base_s * 2.0 ** (min(failures, 50) - 1))
        )

    def test_the_budget_sustains_thirty_percent_of_failures_and_stops_a_storm(self) -> None:
        chance = random.Random(0)
        budget = RetryBudget()
        for _ in range(20_000):
            budget = budget.after_retry() if chance.random() < 0.3 else budget.after_success()
            assert not budget.exhausted
        retries = 0
        while not budget.exhausted:
            budget = budget.after_retry()
            retries += 1
        assert retries <= RetryBudget().capacity

    def test_a_silent_read_is_cut_short_once_and_other_verbs_are_not(self) -> None:
        policy = RetryPolicy()
        assert [policy.timeout_s(timeouts, is_read=True) for timeouts in range(3)] == [2.0, 20.0, 20.0]
        assert policy.timeout_s(0, is_read=False) == 20.0
        assert RetryPolicy(read_timeout_s=1.0).timeout_s(0, is_read=True) == 1.0

    @settings(deadline=None)
    @given(rate=st.floats(1.0, 1e6), step_s=st.floats(0.01, 3.0), reconnects=st.integers(0, 6))
    def test_a_pace_is_slow_exactly_below_the_least_rate(self, rate: float, step_s: float, reconnects: int) -> None:
        policy = RetryPolicy()
        least = policy.least_bytes_per_s / 2.0**reconnects
        pace, verdicts, steps = ThroughputCheck(policy, (0.0, 0), reconnects), [], int(12.0 / step_s) + 2
        for step in range(1, steps):
            pace, slow = pace.after(step * step_s, int(rate * step * step_s))
            verdicts.append(slow)
        if rate < least * 0.99 - 1:
            assert any(verdicts)
            assert step_s * (verdicts.index(True) + 1) <= policy.patience_s + step_s
        if rate > least * 1.01 + 1:
            assert not any(verdicts)

    def test_a_connection_that_becomes_slow_after_a_quick_start_is_noticed(self) -> None:
        pace, slow = ThroughputCheck(RetryPolicy(), (0.0, 0)).after(2.0, 10**9)
        assert not slow
        assert pace.after(4.5, 10**9 + 30_000)[1]

    def test_refusals_of_requests_that_were_under_way_together_count_once(self) -> None:
        limit = ConcurrencyLimit(32.0)
        for _ in range(32):
            limit = limit.after_slow_down(0)
        assert (limit.allowed, limit.halvings) == (16.0, 1)
        assert limit.after_slow_down(1).allowed == 8.0

    def test_concurrency_halves_on_slow_down_and_grows_back_slowly(self) -> None:
        limit = ConcurrencyLimit(16.0).after_slow_down(0)
        assert limit.allowed == 8.0
        for _ in range(8):
            limit = limit.after_success()
        assert 8.9 < limit.allowed < 9.0
        for _ in range(20):
            limit = limit.after_slow_down(limit.halvings)
        assert limit.allowed == 1.0
