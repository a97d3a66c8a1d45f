"""Ranges got through a client's own parts: the requests that a plain GET cannot answer by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from trainplane.storage import NotFound, open_store

CONTENT = bytes(range(256)) * 8
Serving = Callable[[list[tuple[int, str]]], AbstractContextManager[list[str]]]


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Serving:
    """A server that refuses with (status, code) one after the other, then serves; gives the requests' headers."""

    @contextmanager
    def run(refusals: list[tuple[int, str]]) -> Iterator[list[str]]:
        asked: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(f"{self.path}\n{self.headers}")
                if refusals:
                    status, code = refusals.pop(0)
                    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b"no XML"
                else:
                    first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                    status, body = 206, CONTENT[first : last + 1]
                self.send_response(status)
                if status == 206:
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
            yield asked
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return run


def test_a_range_is_signed_for_the_clients_region_and_names_no_secret(serving: Serving) -> None:
    with serving([]) as asked:
        assert open_store("s3://bucket/a b").read("ü+~.tar", start=300, length=500) == CONTENT[300:800]
    assert len(asked) == 1
    assert asked[0].startswith("/bucket/a%20b/%C3%BC%2B~.tar\n")
    assert "Authorization: AWS4-HMAC-SHA256 Credential=me/" in asked[0]
    assert "/eu-west-1/s3/aws4_request" in asked[0]
    assert "Boto3/" in asked[0]
    assert "hunter2" not in asked[0]


@pytest.mark.parametrize("refusal", [(400, "AuthorizationHeaderMalformed"), (307, "TemporaryRedirect")])
def test_a_bucket_that_lies_elsewhere_is_left_to_boto3(serving: Serving, refusal: tuple[int, str]) -> None:
    with serving([refusal]) as asked:
        assert open_store("s3://bucket").read("o", start=5, length=20) == CONTENT[5:25]
    assert len(asked) == 2


@pytest.mark.parametrize("code", ["", "NoSuchKey"])
def test_a_missing_object_is_known_by_its_code_or_its_status(serving: Serving, code: str) -> None:
    with serving([(404, code)]), pytest.raises(NotFound):
        open_store("s3://bucket").read("o", start=0, length=20)


def test_a_refusal_is_tried_again_with_one_request_each_time(serving: Serving) -> None:
    with serving([(500, "InternalError"), (503, "SlowDown"), (500, "")]) as asked:
        assert open_store("s3://bucket").read("o", start=0, length=2048) == CONTENT
    assert len(asked) == 4
