"""Files of the page, and the headers that every answer has."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import FileResponse, Response

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


def page_file(name: str) -> Response:
    """Answers with a file of the page; raises `HttpProblem` for any other name."""
    # The list of what is there decides: no name leads out of the folder.
    files = {file.name: file for file in FOLDER.iterdir() if file.suffix in _MEDIA_TYPES}
    if name not in files:
        raise HttpProblem(404, f"the page has no file {name[:60]!r}; it begins at /")
    return FileResponse(files[name], media_type=_MEDIA_TYPES[files[name].suffix])
