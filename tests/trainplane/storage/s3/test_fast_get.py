"""Ranges read by plain requests, and those that boto3 reads."""

from __future__ import annotations

import io
import itertools
import os
import random
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainplane.storage import NotFound, RetryPolicy, open_store
from trainplane.storage.s3 import fast_get, http_pool, range_reader
from trainplane.storage.s3.range_reader import RangeReader
from trainplane.storage.s3.retry import RETRIES

CONTENT = bytes(range(256)) * 8
Serving = Callable[[list[tuple[int, str]]], AbstractContextManager[list[str]]]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """A server that refuses with (status, code) one after the other, then serves; gives the requests' headers."""

    @contextmanager
    def run(refusals: list[tuple[int, str]]) -> Iterator[list[str]]:
        requests: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(f"{self.path}\n{self.headers}")
                if refusals:
                    status, code = refusals.pop(0)
                    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b"no XML"
                else:
                    first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                    status, body = 206, CONTENT[first : last + 1]
                self.send_response(status)
                if status == 206:
                    self.send_header("ETag", '"1"')
                    self.send_header("Content-Range", f"bytes {first}-{last}/{len(CONTENT)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name, value in (("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "hunter2"), ("DEFAULT_REGION", "eu-west-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        try:
            yield requests
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return run


def test_a_range_is_signed_for_the_clients_region_and_names_no_secret(serving: Serving) -> None:
    with serving([]) as requests:
        assert open_store("s3://bucket/a b").read("ü+~.tar", start=300, length=500) == CONTENT[300:800]
    assert len(requests) == 1
    assert requests[0].startswith("/bucket/a%20b/%C3%BC%2B~.tar\n")
    assert "Authorization: AWS4-HMAC-SHA256 Credential=me/" in requests[0]
    assert "/eu-west-1/s3/aws4_request" in requests[0]
    assert "Boto3/" in requests[0]
    assert "hunter2" not in requests[0]


@pytest.mark.parametrize(
    "refusal",
    [(400, "AuthorizationHeaderMalformed"), (307, "TemporaryRedirect"), (403, "SignatureDoesNotMatch")],
)
def test_a_bucket_that_lies_elsewhere_or_another_signature_is_left_to_boto3(
    serving: Serving, refusal: tuple[int, str]
) -> None:
    with serving([refusal]) as requests:
        assert open_store("s3://bucket").read("o", start=5, length=20) == CONTENT[5:25]
    assert len(requests) == 2


@pytest.mark.parametrize("code", ["", "NoSuchKey"])
def test_a_missing_object_is_known_by_its_code_or_its_status(serving: Serving, code: str) -> None:
    with serving([(404, code)]), pytest.raises(NotFound):
        open_store("s3://bucket").read("o", start=0, length=20)


def test_a_refusal_is_tried_again_with_one_request_each_time(serving: Serving) -> None:
    with serving([(500, "InternalError"), (503, "SlowDown"), (500, "")]) as requests:
        assert open_store("s3://bucket").read("o", start=0, length=2048) == CONTENT
    assert len(requests) == 4


def test_one_signature_serves_the_ranges_of_an_object_until_it_is_old(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def signatures(requests: list[str]) -> int:
        return len({line for request in requests for line in request.splitlines() if line.startswith("Authorization")})

    with serving([]) as requests:
        store = open_store("s3://bucket")
        for start in range(0, 100, 10):
            assert store.read("o", start=start, length=10) == CONTENT[start : start + 10]
        assert signatures(requests) == 1
        store.read("other", start=0, length=10)
        assert signatures(requests) == 2
        monkeypatch.setattr(fast_get, "_SIGNATURE_LIFETIME_S", 0.0)
        time.sleep(1.1)  # signatures are of a second
        store.read("o", start=0, length=10)
        assert signatures(requests) == 3


def test_what_a_plain_request_cannot_do_is_done_by_boto3(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving([]) as requests:
        endpoint = os.environ["AWS_ENDPOINT_URL"]
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.invalid")
        monkeypatch.setenv("HTTP_PROXY", endpoint)
        assert open_store("s3://bucket").read("o", start=5, length=20) == CONTENT[5:25]
        assert requests[0].startswith("http://store.invalid/bucket/o")


@pytest.mark.parametrize("ends", ["before", "within"])
def test_a_kept_connection_that_the_server_has_ended_is_replaced_at_once(
    ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers one request a connection, says that it keeps it, and closes it then, or when it is asked again."""
    connections: list[int] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            connections.append(1)
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.startswith(b"Range"):
                    first, last = map(int, line.split(b"=")[1].split(b"-"))
            body = CONTENT[first : last + 1]
            head = f"Content-Range: bytes {first}-{last}/{len(CONTENT)}\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(b"HTTP/1.1 206 Partial\r\nETag: 1\r\n" + head.encode() + body)
            if ends == "within":
                self.rfile.readline()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        retries = RETRIES.value
        store = open_store("s3://bucket")
        for start in range(0, 50, 10):
            assert store.read("o", start=start, length=10) == CONTENT[start : start + 10]
        server.shutdown()
    assert len(connections) == 5
    assert RETRIES.value == retries


@given(
    pieces=st.lists(st.integers(1, 300_000), min_size=1, max_size=12),
    pauses=st.lists(st.sampled_from([0.0, 0.0, 0.06, 0.3]), min_size=12, max_size=12),
)
@settings(max_examples=200, deadline=None)
def test_a_body_is_whole_however_it_comes(pieces: list[int], pauses: list[float]) -> None:
    """Bodies that come in pieces, some of them slowly: whatever is waited for, every byte lands in its place."""
    content = random.Random(sum(pieces)).randbytes(sum(pieces))
    clock = [0.0]

    class Slow(io.BytesIO):
        def __init__(self) -> None:
            super().__init__(content)
            self.bounds = list(itertools.accumulate(pieces))

        def read1(self, amount: int) -> bytes:
            here = next(bound for bound in self.bounds if bound > self.tell())
            clock[0] += pauses[self.bounds.index(here)]
            return super().read1(min(amount, here - self.tell()))

        def readinto(self, memory: memoryview, limit_s: float) -> int:
            clock[0] += sum(pause for pause, bound in zip(pauses, self.bounds, strict=False) if bound > self.tell()) / 4
            return super().readinto(memory)

    reader = RangeReader("bucket", "o", 0, len(content), RetryPolicy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            range_reader, "get_range", lambda *_: (200, {"content-length": str(len(content)), "etag": "1"}, Slow())
        )
        patch.setattr(range_reader.time, "monotonic", lambda: clock[0])
        reader.attempt(None, lambda: False)
    assert bytes(reader.result()) == content


@pytest.mark.parametrize("quick_bytes", [100_000, 2_000_000])
def test_a_connection_that_begins_to_trickle_is_given_up(quick_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first answer brings its beginning at once and then a byte now and then; the next one is quick."""
    content = random.Random(9).randbytes(3_000_000)
    answers: list[int] = []
    closed = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.startswith(b"Range"):
                    first = int(line.split(b"=")[1].split(b"-")[0])
            body = content[first:]
            answers.append(first)
            head = f"Content-Range: bytes {first}-{len(content) - 1}/{len(content)}\r\nContent-Length: {len(body)}\r\n"
            self.wfile.write(b"HTTP/1.1 206 Partial\r\nETag: 1\r\nConnection: close\r\n" + head.encode() + b"\r\n")
            quick = len(body) if len(answers) > 1 else quick_bytes
            self.wfile.write(body[:quick])
            with suppress(OSError):
                for byte in body[quick:]:
                    if closed.wait(0.1):
                        break
                    self.wfile.write(bytes([byte]))

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
        store = open_store("s3://bucket", policy=RetryPolicy(patience_s=0.5, base_s=0.001))
        started = time.monotonic()
        assert store.read("o", start=0, length=len(content)) == content
        assert time.monotonic() - started < 20
        closed.set()
        server.shutdown()
    assert len(answers) == 2
    assert answers[1] >= quick_bytes


def test_headers_that_are_cut_off_are_no_answer() -> None:
    """A page of a gateway that says 404 would be an absent object without the header that tells its kind."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"HTTP/1.1 404 Not Found\r\nContent-Le")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pool = http_pool.HttpPool(connect_s=1.0, timeout_s=1.0, size=1)
        with pytest.raises((HTTPException, ConnectionError)):
            pool.get(urlsplit(f"http://127.0.0.1:{server.server_address[1]}/x"), {})
        server.shutdown()


def test_headers_without_an_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the limit on silence; the limit on all headers ends it."""
    monkeypatch.setattr(http_pool, "_HEADERS_S", 0.3)
    closed = threading.Event()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            with suppress(OSError):
                while not closed.wait(0.05):
                    self.wfile.write(b"a")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        pool = http_pool.HttpPool(connect_s=1.0, timeout_s=1.0, size=1)
        with pytest.raises(TimeoutError, match="without an end"):
            pool.get(urlsplit(f"http://127.0.0.1:{server.server_address[1]}/x"), {})
        closed.set()
        server.shutdown()
