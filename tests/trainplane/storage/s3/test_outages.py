"""A store that is away: what is waited for, how long, who is told, and who may end it."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from trainplane.storage import AccessDenied, NoBucket, NotFound, RetryPolicy, StorageError, StoreAway, open_store
from trainplane.storage.s3 import request
from trainplane.storage.s3.errors import NotS3, ShortBody, is_outage
from trainplane.store_wait import STORE_WAITS, VARIABLE
from trainplane.testing.fault_proxy import OUTAGES

QUICK = RetryPolicy(
    attempts=3, base_s=0.01, cap_s=0.02, outage_cap_s=0.1, connect_timeout_s=0.5, read_timeout_s=0.25, patience_s=0.2
)


@pytest.fixture
def patient(monkeypatch):
    """This process waits for a store, and tells what it waits for."""
    monkeypatch.setenv(VARIABLE, "60")
    monkeypatch.setattr(STORE_WAITS, "is_over", False)
    told = []
    with STORE_WAITS.listening(told.append, lambda: False):
        STORE_WAITS.take_ended()
        yield told
        STORE_WAITS.take_ended()


def pauses(policy, count, *, wait_s, is_outage=True, jitter=0.5, has_budget=True):
    """The pauses of an operation whose attempts fail at once, until it gives up."""
    found, failing_s = [], 0.0
    for failures in range(1, count + 1):
        pause = policy.next_pause_s(
            failures=failures,
            failing_s=failing_s,
            wait_s=wait_s,
            is_outage=is_outage,
            has_budget=has_budget,
            jitter=jitter,
        )
        if pause is None:
            return found
        found.append(pause)
        failing_s += pause
    return found


class TestDecision:
    def test_without_a_wait_the_attempts_are_the_limit(self):
        assert len(pauses(RetryPolicy(), 100, wait_s=0)) == RetryPolicy().attempts - 1

    def test_an_outage_is_waited_for_up_to_the_limit_with_growing_bounded_pauses(self):
        found = pauses(RetryPolicy(), 10_000, wait_s=1800.0)
        assert sum(found) == pytest.approx(1800.0)
        assert max(found) <= RetryPolicy().outage_cap_s
        assert found[:12] == sorted(found[:12])
        # So few requests reach a store in trouble.
        assert len(found) < 1800 / 10

    def test_pauses_are_spread(self):
        early, late = (pauses(RetryPolicy(), 40, wait_s=1800.0, jitter=jitter)[30] for jitter in (0.0, 0.99))
        assert late > 1.9 * early > 5

    def test_a_fault_of_the_request_is_never_waited_for(self):
        assert len(pauses(RetryPolicy(), 100, wait_s=1800.0, is_outage=False)) == RetryPolicy().attempts - 1
        assert pauses(RetryPolicy(), 100, wait_s=1800.0, is_outage=False, has_budget=False) == []

    def test_a_spent_budget_slows_an_outage_down_and_does_not_end_it(self):
        assert sum(pauses(RetryPolicy(), 10_000, wait_s=600.0, has_budget=False)) == pytest.approx(600.0)

    def test_slow_failures_end_the_first_attempts_too(self):
        slow = {"wait_s": 0.0, "is_outage": True, "has_budget": True, "jitter": 0.5}
        assert RetryPolicy().next_pause_s(failures=2, failing_s=40.0, **slow) is not None
        assert RetryPolicy().next_pause_s(failures=3, failing_s=40.0, **slow) is None


def answer(status, code):
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "GetObject")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (answer(503, "SlowDown"), True),
        (answer(500, "InternalError"), True),
        (answer(502, "502"), True),
        (answer(504, "504"), True),
        (answer(429, "TooManyRequests"), True),
        (EndpointConnectionError(endpoint_url="http://store"), True),
        (ConnectionRefusedError(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (socket.gaierror(socket.EAI_AGAIN, "try again"), True),
        (OSError(113, "no route to host"), True),
        (answer(501, "NotImplemented"), False),
        (answer(403, "AccessDenied"), False),
        (answer(404, "NoSuchKey"), False),
        (answer(400, "ExpiredToken"), False),
        (answer(409, "OperationAborted"), False),
        (answer(400, "BadDigest"), False),
        (ssl.SSLCertVerificationError("self-signed"), False),
        (OSError(24, "too many open files"), False),
        (ShortBody("short"), False),
        (NotS3("a web page"), False),
        (ValueError("garbled"), False),
    ],
)
def test_what_an_outage_is(error, expected):
    assert is_outage(error) is expected


@pytest.mark.parametrize("kind", sorted(OUTAGES))
def test_reads_writes_listings_and_uploads_wait_until_the_store_is_back(faulty_s3, s3_address, patient, kind):
    store = open_store(s3_address, policy=QUICK)
    store.write("there", b"1" * 1000)
    large = bytes(range(256)) * 4096 * 9
    results = {}

    def upload():
        with store.open_writer("large") as file:
            file.write(large)

    work = {
        "read": lambda: bytes(store.read("there")),
        "range": lambda: bytes(store.read("there", start=10, length=5)),
        "size": lambda: store.size("there"),
        "list": lambda: [entry.key for entry in store.list("there")],
        "write": lambda: store.write("new", b"2"),
        "create": lambda: store.create("claim", b"mine"),
        "upload": upload,
    }
    faulty_s3.go_away(kind, 1.5 if kind == "silent" else 0.8)
    began = time.monotonic()
    threads = [
        threading.Thread(target=lambda name=name, do=do: results.update({name: do()})) for name, do in work.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert time.monotonic() - began > 0.7
    assert {**results, "write": None, "upload": None} == {
        "read": b"1" * 1000,
        "range": b"1" * 5,
        "size": 1000,
        "list": ["there"],
        "write": None,
        "create": True,
        "upload": None,
    }
    assert store.read("large") == large
    assert store.create("claim", b"other") is False
    # It says since when and for what, once, and for how long in the end.
    first, last = patient[0], patient[-1]
    assert first.until is None
    assert last.until is not None
    assert "127.0.0.1" in first.reason
    assert s3_address in str(first)
    assert str(last).startswith("waited ")
    assert len(patient) <= 4
    assert STORE_WAITS.beats > 0


def test_a_store_that_stays_away_ends_the_wait_with_a_cause_of_its_own(faulty_s3, s3_address, patient, monkeypatch):
    store = open_store(s3_address, policy=QUICK)
    store.write("x", b"1")
    monkeypatch.setattr(request, "store_wait_s", lambda: 0.6)
    faulty_s3.go_away("refused", 30)
    began = time.monotonic()
    with pytest.raises(StoreAway, match=r"keeps failing \(.*\) for \d+ s now; check AWS_ENDPOINT_URL"):
        store.read("x")
    assert 0.5 < time.monotonic() - began < 3


def test_a_name_that_is_not_found_is_waited_for(faulty_s3, s3_address, patient, monkeypatch):
    store = open_store(s3_address, policy=QUICK)
    store.write("x", b"1")
    lost_until = time.monotonic() + 1.0
    resolve = socket.getaddrinfo

    def no_names(*args, **kwargs):
        if time.monotonic() < lost_until:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(*args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", no_names)
    # Its open connections are closed, so that every request needs the name.
    faulty_s3.go_away("refused", 0.2)
    assert store.read("x") == b"1"
    assert store.size("x") == 1
    assert time.monotonic() > lost_until


def test_a_command_that_a_person_waits_for_gives_up_soon_and_says_so(faulty_s3, s3_address, caplog, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(request, "_TELL_AFTER_S", 0.0)
    faulty_s3.go_away("503", 60)
    with caplog.at_level(logging.WARNING), pytest.raises(StoreAway, match="keeps failing"):
        list(open_store(s3_address, policy=QUICK).list())
    assert faulty_s3.requests <= QUICK.attempts + 1
    assert "up to 30 s" in caplog.text


def test_a_store_that_has_never_answered_may_be_a_wrong_address(s3_server, s3_address, patient, monkeypatch):
    monkeypatch.setattr(STORE_WAITS, "needs_answer", True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreAway, match=r"127\.0\.0\.1:9 keeps failing"):
        open_store("s3://bucket/x", policy=QUICK).read("x")
    assert patient == []


def test_one_that_says_that_it_lacks_an_object_has_answered(faulty_s3, s3_address, patient, monkeypatch):
    monkeypatch.setattr(STORE_WAITS, "needs_answer", True)
    store = open_store(s3_address, policy=QUICK)
    with pytest.raises(NotFound):
        store.read("x")
    faulty_s3.go_away("503", 0.8)
    assert store.size("x") is None


def test_refusals_and_absence_are_told_at_once(faulty_s3, s3_address, patient):
    store = open_store(s3_address, policy=QUICK)
    faulty_s3.fault = lambda method, path, number: "denied"
    with pytest.raises(AccessDenied):
        store.read("x")
    faulty_s3.fault = lambda method, path, number: "expired"
    with pytest.raises(StorageError, match="ExpiredToken"):
        store.read("x")
    faulty_s3.fault = lambda method, path, number: None
    with pytest.raises(NotFound):
        store.read("x")
    with pytest.raises(NoBucket):
        open_store("s3://no-such-bucket-here/x", policy=QUICK).read("x")
    # Seconds at the most, for credentials that are read again.
    assert patient == []


def test_somebody_who_stops_a_run_does_not_wait(faulty_s3, s3_address, monkeypatch):
    monkeypatch.setenv(VARIABLE, "60")
    monkeypatch.setattr(STORE_WAITS, "is_over", False)
    stop = threading.Event()
    store = open_store(s3_address, policy=QUICK)
    store.write("x", b"1")
    faulty_s3.go_away("503", 20)
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    with STORE_WAITS.listening(lambda wait: None, stop.is_set), pytest.raises(StoreAway):
        store.read("x")
    assert 0.4 < time.monotonic() - began < 5


def test_a_thread_that_is_no_longer_needed_does_not_wait(faulty_s3, s3_address, patient):
    store = open_store(s3_address, policy=QUICK)
    store.write("x", b"1")
    faulty_s3.go_away("503", 20)
    with STORE_WAITS.obeying(lambda: True), pytest.raises(StoreAway):
        store.read("x")
    assert patient == []
