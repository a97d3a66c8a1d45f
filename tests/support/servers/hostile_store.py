"""An S3 store whose first answers to an operation are spoilt by a seed; the later ones are sound."""

from __future__ import annotations

import contextlib
import random
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

BUCKET, PREFIX = "bucket", "p"
CONTENT = random.Random(0).randbytes(70_000)
KEYS = ("a", "b/c", "x")
PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"
STATUSES = (
    100,
    101,
    200,
    201,
    204,
    206,
    301,
    302,
    304,
    307,
    400,
    401,
    403,
    404,
    405,
    409,
    412,
    416,
    418,
    429,
    500,
    501,
)
STATUSES = (*STATUSES, 502, 503, 504, 599, 999)
# Every one of these statuses may say, with S3's own words, what a caller is told.
CODES = ("NoSuchKey", "NoSuchBucket", "AccessDenied", "SlowDown", "InternalError", "PreconditionFailed", "InvalidRange")
CODES = (*CODES, "ExpiredToken", "NotImplemented", "RequestTimeout", "", "\u2028", "a" * 5000, "<b>", "Moved\r\nX: y")


@dataclass
class Answer:
    """One answer, before it is written."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_head: bool = False
    # (byte, seconds): pauses while it is written; a connection that ends at a byte, None for none.
    pauses: list[tuple[int, float]] = field(default_factory=list)
    ends_at: int | None = None

    def header(self, name: str, value: str | None) -> None:
        """Sets a header, or removes it."""
        self.headers = [pair for pair in self.headers if pair[0].lower() != name.lower()]
        if value is not None:
            self.headers.append((name, value))

    def to_bytes(self) -> bytes:
        head = f"HTTP/1.1 {self.status} Answer\r\n" + "".join(f"{name}: {value}\r\n" for name, value in self.headers)
        return head.encode("utf-8", "surrogatepass") + b"\r\n" + (b"" if self.is_head else self.body)


def sound_answer(method: str, target: str, headers: dict[str, str]) -> Answer:
    """The answer of a store that has the keys."""
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    if "uploads" in query:
        fields = f"<Bucket>{BUCKET}</Bucket><IsTruncated>false</IsTruncated>"
        return _xml(f"<ListMultipartUploadsResult>{fields}</ListMultipartUploadsResult>")
    if "list-type" in query:
        items = "".join(
            f'<Contents><Key>{PREFIX}/{key}</Key><Size>{len(CONTENT)}</Size><ETag>"1"</ETag></Contents>' for key in KEYS
        )
        return _xml(
            f"<ListBucketResult><Name>{BUCKET}</Name><Prefix>{query['prefix'][0]}</Prefix><KeyCount>{len(KEYS)}"
            f"</KeyCount><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
        )
    if method == "GET" and "range" in headers:
        first, _, last = headers["range"].removeprefix("bytes=").partition("-")
        body = CONTENT[int(first) : int(last) + 1 if last else None]
        end = int(first) + len(body) - 1
        named = [("ETag", '"1"'), ("Content-Range", f"bytes {first}-{end}/{len(CONTENT)}")]
        return Answer(206, [*named, ("Content-Length", str(len(body)))], body)
    if method == "HEAD":
        return Answer(200, [("ETag", '"1"'), ("Content-Length", str(len(CONTENT)))], b"", is_head=True)
    if method == "DELETE":
        return Answer(204, [], b"")
    return Answer(200, [("ETag", '"1"'), ("Content-Length", "0")], b"")


def _xml(text: str) -> Answer:
    body = b'<?xml version="1.0" encoding="UTF-8"?>' + text.encode()
    return Answer(200, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))], body)


def spoil(answer: Answer, rng: random.Random) -> None:
    """Makes it one that no store gives, or one of a store in trouble."""
    chosen = rng.choices(_SPOILERS, k=rng.choice((1, 1, 2)))
    # Pieces without a length cannot be told from right ones, so they are of the right body.
    for spoiler in sorted(set(chosen), key=lambda spoiler: (spoiler is not _chunked, spoiler.__name__)):
        spoiler(answer, rng)


def _set_body(answer: Answer, body: bytes) -> None:
    # The length of an object that a HEAD tells cannot be doubted.
    if answer.is_head:
        return
    answer.body = body
    answer.header("Content-Length", str(len(body)))


def _page(answer: Answer, rng: random.Random) -> None:
    answer.status = rng.choice((200, 200, 206, 404, 403, 503, answer.status))
    answer.header("Content-Type", rng.choice(("text/html", "text/html; charset=utf-8", "TEXT/HTML")))
    _set_body(answer, PAGE)


def _status(answer: Answer, rng: random.Random) -> None:
    answer.status = rng.choice([status for status in STATUSES if status != answer.status])


def _refusal(answer: Answer, rng: random.Random) -> None:
    answer.status = rng.choice([status for status in STATUSES if status >= 301])
    answer.header("ETag", None)
    answer.header("Content-Type", "application/xml")
    _set_body(answer, f"<Error><Code>{rng.choice(CODES)}</Code><Message>m</Message></Error>".encode())


def _no_header(answer: Answer, rng: random.Random) -> None:
    names = [name for name, _ in answer.headers if name.lower() in ("etag", "content-range")]
    if names:
        answer.header(rng.choice(names), None)


def _odd_header(answer: Answer, rng: random.Random) -> None:
    name = rng.choice(
        (
            "Content-Range",
            "x-odd" if answer.is_head else "Content-Length",
            "Date",
            "Last-Modified",
            "x-amz-version-id",
            "Location",
        )
    )
    odd = ("", "-1", "1e9", "bytes 0-0/*", "bytes 7-3/2", "99999999999999", "\u00e9", "x" * 70_000, "bytes */0", "NaN")
    answer.header(name, rng.choice(odd))


def _odd_body(answer: Answer, rng: random.Random) -> None:
    odd = (
        b"",
        b"{}",
        b"null",
        b"\0" * 100,
        b"\xff\xfe\xfa",
        b"<a>",
        b"<ListBucketResult/>",
        b"<Error/>",
        rng.randbytes(300),
    )
    answer.header("Content-Range", None)
    answer.header("ETag", None)
    _set_body(answer, rng.choice(odd))


def _deep_xml(answer: Answer, rng: random.Random) -> None:
    tag = rng.choice((b"ListBucketResult", b"Contents", b"Error"))
    _set_body(answer, b"<" + tag + b">" + b"<a>" * 30_000)


def _entities(answer: Answer, rng: random.Random) -> None:
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "lol" * 10}">' for n in range(9))
    _set_body(answer, f"<!DOCTYPE x [{lines}]><ListBucketResult><Name>&e8;</Name></ListBucketResult>".encode())


def _cut_xml(answer: Answer, rng: random.Random) -> None:
    if answer.body.startswith(b"<?xml"):
        _set_body(answer, answer.body[: rng.randrange(len(answer.body) - 1)])


def _other_listing(answer: Answer, rng: random.Random) -> None:
    text = answer.body.decode("latin-1")
    old, new = rng.choice(
        (
            (f"<Name>{BUCKET}</Name>", "<Name>other</Name>"),
            (f"<Name>{BUCKET}</Name>", ""),
            (f"<Key>{PREFIX}/", "<Key>q/"),
            ("<IsTruncated>false</IsTruncated>", "<IsTruncated>true</IsTruncated>"),
            ("<IsTruncated>false</IsTruncated>", ""),
            ("<Size>", "<Size>-"),
            (f"<Key>{PREFIX}/a</Key>", f"<Key>{PREFIX}/zz</Key>"),
            (f"<KeyCount>{len(KEYS)}</KeyCount>", "<KeyCount>9</KeyCount>"),
            (f"<Prefix>{PREFIX}/</Prefix>", "<Prefix>elsewhere/</Prefix>"),
            ("<Size>", "<Size>many"),
        )
    )
    if text.startswith("<?xml"):
        _set_body(answer, text.replace(old, new).encode("latin-1"))


def _shorter(answer: Answer, rng: random.Random) -> None:
    if answer.body:
        answer.ends_at = -rng.randrange(1, len(answer.body) + 1)


def _under_half_the_length(answer: Answer, rng: random.Random) -> None:
    if not answer.body.startswith(b"<"):
        _set_body(answer, answer.body[: rng.randrange(len(answer.body) + 1)])


def _dropped(answer: Answer, rng: random.Random) -> None:
    # Python's HTTP client takes headers that end without an empty line, and a HEAD has no body that would be missed.
    if not answer.is_head:
        answer.ends_at = rng.randrange(60)


def _late(answer: Answer, rng: random.Random) -> None:
    answer.pauses = [(rng.randrange(200), rng.choice((0.02, 0.02, 0.4)))]


def _chunked(answer: Answer, rng: random.Random) -> None:
    answer.header("Content-Length", None)
    answer.header("Transfer-Encoding", "chunked")
    size = rng.choice((b"5\r\n", b"zz\r\n", b"ffffffffffff\r\n", b"-1\r\n", b""))
    answer.body = size + answer.body + rng.choice((b"\r\n0\r\n\r\n", b"", b"\r\n"))


_SPOILERS = (
    *(_page, _status, _refusal, _no_header, _odd_header, _odd_body, _deep_xml, _entities, _cut_xml, _other_listing),
    *(_shorter, _under_half_the_length, _dropped, _late, _chunked),
)


class HostileStore:
    """The store, as a server; `begin` seeds the next operation.

    Another server gives its own sound answers and its own ways of spoiling them.
    """

    def __init__(self, sound_answer: Callable[..., Answer] = sound_answer, spoil: Callable[..., None] = spoil) -> None:
        self._sound_answer, self._spoil = sound_answer, spoil
        self._rng, self._spoilt, self.sent = random.Random(0), 0, list[Answer]()
        store = self

        class Handler(socketserver.StreamRequestHandler):
            disable_nagle_algorithm = True

            def handle(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    while store._serve(self):
                        pass

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def begin(self, seed: int) -> None:
        """Seeds the answers of the next operation."""
        self._rng = random.Random(seed)
        self._spoilt, self.sent = self._rng.choice((1, 1, 2, 3)), []

    def close(self) -> None:
        """Ends the server."""
        self._server.shutdown()
        self._server.server_close()

    def _serve(self, handler: socketserver.StreamRequestHandler) -> bool:
        """Answers one request; False ends the connection."""
        line = handler.rfile.readline().decode("latin-1").split()
        if len(line) != 3:
            return False
        headers = {}
        while (header := handler.rfile.readline()) not in (b"\r\n", b""):
            name, _, value = header.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect"):
            handler.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        handler.rfile.read(int(headers.get("content-length", 0)))
        answer = self._sound_answer(line[0], line[1], headers)
        if len(self.sent) < self._spoilt:
            self._spoil(answer, self._rng)
            self.sent.append(answer)
        data = answer.to_bytes()
        end = (
            len(data)
            if answer.ends_at is None
            else answer.ends_at % (len(data) + 1)
            if answer.ends_at >= 0
            else len(data) + answer.ends_at
        )
        at = 0
        for stop, seconds in [*answer.pauses, (end, 0.0)]:
            handler.wfile.write(data[at : min(stop, end)])
            at = max(at, min(stop, end))
            time.sleep(seconds)
        # A spoilt answer may have any length, so nothing can follow it.
        return answer.ends_at is None and answer not in self.sent
