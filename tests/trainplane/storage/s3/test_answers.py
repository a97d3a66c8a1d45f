"""Answers that no S3 store gives, whatever status they come with, and settings with which none can be asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainplane.data.manifest import Dataset
from trainplane.errors import UserError
from trainplane.storage import NoBucket, NotFound, RetryPolicy, StorageError, open_store
from trainplane.storage.s3.answers import MAX_EMPTY_PAGES, ListedPages, check_headers, uploads_of
from trainplane.storage.s3.errors import NotS3
from trainplane.storage.s3.messages import check_environment

QUICK = RetryPolicy(attempts=3, base_s=0.001, cap_s=0.01, connect_timeout_s=1.0, read_timeout_s=2.0, patience_s=0.5)
PAGE = b"<!doctype html><html><title>Please log in</title></html>"
Answer = Callable[[BaseHTTPRequestHandler], tuple[int, dict[str, str], bytes]]


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answer], None]]:
    """A server whose answers a test gives; the environment points to it."""
    answers: list[Answer] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answers[-1](self)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_PUT = do_POST = do_HEAD = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            """Clients hang up here on purpose."""

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for name, value in (("ACCESS_KEY_ID", "me"), ("SECRET_ACCESS_KEY", "hunter2"), ("DEFAULT_REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        yield answers.append
        server.shutdown()


def same(status: int, body: bytes, kind: str = "application/xml", **headers: str) -> Answer:
    given = {"Content-Type": kind, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return lambda request: (status, given, body)


def _listing(fields: bytes) -> bytes:
    return b"<ListBucketResult><Name>bucket</Name>" + fields + b"</ListBucketResult>"


def listing(**fields: object) -> dict[str, object]:
    return {"Name": "bucket", "Prefix": "p/", "IsTruncated": False, **fields}


def item(key: str, size: int = 1) -> dict[str, object]:
    return {"Key": key, "Size": size, "ETag": '"e"'}


class TestPages:
    @pytest.mark.parametrize("status", [200, 403, 404])
    def test_are_nothing_that_a_store_says(self, answering, status: int) -> None:
        answering(same(status, PAGE, "text/html; charset=utf-8"))
        store = open_store("s3://bucket/p", policy=QUICK)
        for operation in (
            lambda: store.read("manifest.json"),
            lambda: store.read("manifest.json", start=0, length=10),
            lambda: store.size("manifest.json"),
            lambda: list(store.list()),
            lambda: store.write("x", b"1"),
            lambda: store.create("x", b"1"),
            lambda: store.delete("x"),
            lambda: store.clear_unfinished(lambda key: True),
        ):
            with pytest.raises(StorageError, match="answers as no S3 store does") as failed:
                operation()
            assert not isinstance(failed.value, NotFound)

    def test_of_a_console_are_no_damage_of_a_dataset(self, answering) -> None:
        answering(same(200, PAGE, "text/html"))
        with pytest.raises(StorageError, match="AWS_ENDPOINT_URL") as failed:
            Dataset.open(open_store("s3://bucket/mine", policy=QUICK))  # type: ignore[arg-type]
        assert "pack" not in str(failed.value)

    def test_may_be_objects_of_a_store(self) -> None:
        check_headers({"content-type": "text/html", "x-amz-request-id": "1", "content-length": "9"})
        check_headers({"content-type": "text/html", "content-length": "0"})
        check_headers({"content-type": "application/octet-stream", "content-length": "9"})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b'{"ok": true}',
        b"<html><body>log in</body></html>",
        b'<?xml version="1.0"?><ListBucketResult><Name>bucket</Na',
        b'<?xml version="1.0" encoding="UTF-9"?><ListBucketResult><Name>bucket</Name></ListBucketResult>',
        b"<ListBucketResult><Name>other</Name><IsTruncated>false</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><Name>bucket</Name></ListBucketResult>",
        _listing(b"<IsTruncated>vrue</IsTruncated><NextContinuationToken>t</NextContinuationToken>"),
        _listing(b"<IsTruncated>false</IsTruncated><Contents><Key>p/a</Key><Size>many</Size></Contents>"),
        _listing(
            b"<IsTruncated>false</IsTruncated><Contents><Key>p/a</Key><LastModified>now</LastModified></Contents>"
        ),
    ],
)
def test_what_is_no_listing_is_no_empty_listing(answering, body: bytes) -> None:
    answering(same(200, body))
    with pytest.raises(StorageError):
        list(open_store("s3://bucket/p", policy=QUICK).list())


@pytest.mark.parametrize(
    "fields",
    [
        {"Name": "other"},
        {"Prefix": "q/"},
        {"KeyCount": 2, "Contents": [item("p/a")]},
        {"Contents": [item("q/a")]},
        {"Contents": [item("p/a"), item("p/a")]},
        {"Contents": [item("p/b"), item("p/a")]},
        {"Contents": [item("p/a", -5)]},
        {"IsTruncated": True},
        {"IsTruncated": False, "NextContinuationToken": "t"},
    ],
)
def test_a_listing_must_be_of_the_place_complete_and_in_order(fields: dict[str, object]) -> None:
    with pytest.raises(NotS3):
        ListedPages("bucket", "p/", "").entries(listing(**fields))


def test_the_same_page_again_ends_a_listing_and_a_repeated_answer_does_not_spoil_it() -> None:
    pages = ListedPages("bucket", "p/", "")
    first = listing(Contents=[item("p/a"), item("p/folder/")], IsTruncated=True, NextContinuationToken="t")
    entries, token = pages.entries(first)
    assert ([entry.key for entry in entries], token) == (["a"], "t")
    with pytest.raises(NotS3):
        pages.entries(first)
    assert [entry.key for entry in pages.entries(listing(Contents=[item("p/z")]))[0]] == ["z"]


def test_empty_pages_end() -> None:
    pages = ListedPages("bucket", "p/", "")
    for number in range(MAX_EMPTY_PAGES):
        pages.entries(listing(IsTruncated=True, NextContinuationToken=f"t{number}"))
    with pytest.raises(NotS3, match="without end"):
        pages.entries(listing(IsTruncated=True, NextContinuationToken="t"))


def test_an_empty_page_that_leads_to_itself_ends_a_listing() -> None:
    pages = ListedPages("bucket", "p/", "")
    empty = listing(IsTruncated=True, NextContinuationToken="t")
    assert pages.entries(empty) == ([], "t")
    with pytest.raises(NotS3, match="the same page"):
        pages.entries(empty)


def test_the_same_page_of_unfinished_uploads_is_not_read_again() -> None:
    answer = {"IsTruncated": True, "NextKeyMarker": "k", "NextUploadIdMarker": "u"}
    _, markers = uploads_of(answer, {"Bucket": "bucket"})
    with pytest.raises(NotS3):
        uploads_of(answer, {"Bucket": "bucket", **markers})


class TestObjects:
    @pytest.mark.parametrize("size", ["1099511627776", "1125899906842624"])
    def test_that_claim_a_huge_size_claim_no_memory(self, answering, size: str) -> None:
        answering(lambda request: (206, {"ETag": '"1"', "Content-Range": f"bytes 0-3/{size}"}, b"1234"))
        with pytest.raises(StorageError, match="keeps failing"):
            open_store("s3://bucket", policy=QUICK).read("x")
        answering(lambda request: (200, {"ETag": '"1"', "Content-Length": size, "Connection": "close"}, b"1234"))
        with pytest.raises(StorageError):
            open_store("s3://bucket", policy=QUICK).read("x")

    def test_that_end_before_their_promised_size_are_not_taken_for_whole(self, answering) -> None:
        def promise_more(request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
            if not request.headers["Range"].startswith("bytes=0-"):
                return 416, {"Content-Type": "application/xml"}, b"<Error><Code>InvalidRange</Code></Error>"
            return 206, {"ETag": '"1"', "Content-Range": "bytes 0-3/8"}, b"1234"

        answering(promise_more)
        with pytest.raises(StorageError, match="keeps failing"):
            open_store("s3://bucket", policy=QUICK).read("x")

    def test_without_a_tag_are_none(self, answering) -> None:
        answering(same(200, b"{}", "application/json"))
        store = open_store("s3://bucket", policy=QUICK)
        for operation in (store.read, store.size):
            with pytest.raises(StorageError, match="answers as no S3 store does"):
                operation("x")
        with pytest.raises(StorageError, match="keeps failing"):
            store.write("x", b"1")

    def test_a_put_that_says_ok_around_an_error_has_not_happened(self, answering) -> None:
        answering(same(200, b"<Error><Code>InternalError</Code></Error>"))
        with pytest.raises(StorageError):
            open_store("s3://bucket", policy=QUICK).write("x", b"1")


class TestRefusals:
    @pytest.mark.parametrize("encoding", ["UTF-9", "utf-16", "base64", "UTF-32"])
    def test_in_an_odd_encoding_are_refusals(self, answering, encoding: str) -> None:
        refusal = f'<?xml version="1.0" encoding="{encoding}"?><Error><Code>SlowDown</Code></Error>'.encode()
        answering(same(503, refusal))
        with pytest.raises(StorageError, match=r"keeps failing \(503\)"):
            open_store("s3://bucket", policy=QUICK).read("x")

    def test_with_a_whole_text_as_code_are_known_by_their_status(self, answering) -> None:
        answering(same(403, b"<Error><Code>" + b"no way " * 1000 + b"</Code></Error>"))
        with pytest.raises(StorageError, match=r"refuses to read x \(403\)"):
            open_store("s3://bucket", policy=QUICK).read("x")

    @pytest.mark.parametrize(("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument"), (405, "")])
    def test_of_a_condition_say_what_the_store_lacks(self, answering, status: int, code: str) -> None:
        answering(same(status, f"<Error><Code>{code}</Code></Error>".encode()))
        with pytest.raises(StorageError, match="If-None-Match"):
            open_store("s3://bucket", policy=QUICK).create("x", b"1")

    @pytest.mark.parametrize("code", ["NoSuchKey", "", "NoSuchUpload"])
    def test_that_something_is_absent_are_no_answer_to_a_listing_or_to_what_is_new(self, answering, code: str) -> None:
        answering(same(404, f"<Error><Code>{code}</Code></Error>".encode()))
        store = open_store("s3://bucket/p", policy=QUICK)
        for operation in (
            lambda: list(store.list()),
            lambda: store.write("x", b"1"),
            lambda: store.create("x", b"1"),
            lambda: store.clear_unfinished(lambda key: True),
        ):
            with pytest.raises(StorageError):
                operation()
        for read in (lambda: store.read("x"), lambda: store.read("x", start=1, length=2)):
            with pytest.raises(NotFound):
                read()
        assert store.size("x") is None

    def test_of_a_bucket_are_not_of_an_object(self, answering) -> None:
        answering(same(404, b"<Error><Code>NoSuchBucket</Code></Error>"))
        with pytest.raises(NoBucket):
            open_store("s3://bucket", policy=QUICK).read("x")


class TestSettings:
    """Each is told as what it is, and none as damage of a dataset."""

    @pytest.fixture(autouse=True)
    def _nothing_set(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "ENDPOINT_URL", "REGION"):
            monkeypatch.delenv(f"AWS_{name}", raising=False)
        monkeypatch.delenv("AWS_ENDPOINT_URL_S3", raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    def message(self) -> str:
        with pytest.raises((UserError, StorageError)) as failed:
            Dataset.open(open_store("s3://bucket/mine", policy=QUICK))  # type: ignore[arg-type]
        message = str(failed.value)
        assert "restore" not in message
        assert "pack" not in message
        assert "hush" not in message
        return message

    def test_no_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert "no credentials for 127.0.0.1:9" in self.message()

    def test_half_of_the_credentials(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        assert "no credentials" in self.message()

    def test_a_profile_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        assert "there is no AWS profile 'nobody'" in self.message()

    def test_a_file_that_is_none(self, tmp_path: Path) -> None:
        (tmp_path / "config").write_text("this is no configuration")
        assert "AWS's configuration files cannot be used" in self.message()

    def test_a_sign_in_that_is_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        (tmp_path / "config").write_text(
            "[default]\nregion=us-east-1\nsso_session=x\nsso_account_id=1\nsso_role_name=r\n"
            "[sso-session x]\nsso_region=us-east-1\nsso_start_url=https://example.invalid\n"
        )
        assert "aws sso login --profile default" in self.message()
        assert caplog.records == []

    def test_an_endpoint_of_a_profile_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config").write_text(
            "[default]\naws_access_key_id=me\naws_secret_access_key=hush\nendpoint_url=http://127.0.0.1:9\n"
        )
        assert "127.0.0.1:9 keeps failing" in self.message()

    @pytest.mark.parametrize("url", ["127.0.0.1:9000", "store:9000", "localhost:9000/"])
    def test_an_endpoint_without_a_scheme(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert f"set AWS_ENDPOINT_URL=http://{url}" in self.message()

    @pytest.mark.parametrize("url", ["http://", "http://host:port", "https//store", "ftp://store", "http://[::1"])
    def test_an_endpoint_that_is_none(self, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        assert "AWS_ENDPOINT_URL is not the address of a server" in self.message()

    @pytest.mark.parametrize(
        "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION"]
    )
    @pytest.mark.parametrize("value", ["hush\n", " hush", "hu\tsh", "hush\r\n"])
    def test_a_line_end_in_a_value(self, name: str, value: str) -> None:
        with pytest.raises(UserError, match=f"{name} has a blank or a line end") as refusal:
            check_environment({name: value})
        assert "hush" not in str(refusal.value)
