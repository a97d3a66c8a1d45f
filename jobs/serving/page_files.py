"""Files of the page, and headers of every answer."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

from fastapi.responses import Response

from jobs.serving.problems import HttpProblem

FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
# Nothing from other hosts, nothing inline, and no other site may frame the page.
PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def page_file(name: str, accepts: str = "") -> Response:
    """Answers with a file of the page, compressed if accepted.

    Args:
        name: Of a file in the folder.
        accepts: Encodings that the client takes, as in its header `Accept-Encoding`.

    Raises:
        HttpProblem: There is no such file.
    """
    # The list of what is there decides: no name leads out of the folder.
    files = {file.name: file for file in FOLDER.iterdir() if file.suffix in _MEDIA_TYPES}
    if name not in files:
        raise HttpProblem(404, f"the page has no file {name[:60]!r}; it begins at /")
    headers = {"Vary": "Accept-Encoding"}
    media_type = _MEDIA_TYPES[files[name].suffix]
    if not {"gzip", "*"} & {part.strip() for part in accepts.split(",")}:
        return Response(files[name].read_bytes(), media_type=media_type, headers=headers)
    content = _compressed(files[name], files[name].stat().st_mtime_ns)
    return Response(content, media_type=media_type, headers={**headers, "Content-Encoding": "gzip"})


@cache
def _compressed(file: Path, modified_ns: int) -> bytes:
    # The time is part of the key: an edited file is seen by the next request.
    return gzip.compress(file.read_bytes(), mtime=0)
