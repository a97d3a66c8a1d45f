"""Limits of time and size for MLflow's answers.

`requests` limits the pause between two bytes of an answer, not their number: a server that sends a byte now and then
would hold a command for ever, one that never ends would take all memory. To MLflow's client (3.17.2) an answer that
broke off before its first byte, or an error with status 200, is a list of nothing.
"""

from __future__ import annotations

import functools
import re
import time
from typing import Any
from urllib.parse import urlsplit

# The largest sound answers, pages of runs with many parameters, have some ten MB and take seconds.
MAX_ANSWER_BYTES = 256 * 2**20
MAX_ANSWER_S = 120.0
_PIECE_BYTES = 2**16
_API = re.compile(r"api/\d\.\d/mlflow/")
_ERROR = re.compile(rb'\s*\{\s*"(error_code|message)"\s*:')


def limit_answers() -> None:
    """Makes MLflow's client read answers within limits.

    Artifacts are not concerned: they are read as streams. Calling it again changes nothing.
    """
    from mlflow.utils import request_utils

    # MLflow keeps its sessions to itself (3.17.2); hooks are the way that `requests` has for this.
    make_session = request_utils._get_request_session
    if hasattr(make_session, "__wrapped__"):
        return

    @functools.wraps(make_session)
    def make_limited(*arguments: Any, **options: Any) -> Any:
        session = make_session(*arguments, **options)
        if read_answer not in session.hooks["response"]:
            session.hooks["response"].append(read_answer)
        return session

    request_utils._get_request_session = make_limited


def read_answer(response: Any, **options: Any) -> Any:
    """Reads the body of an answer; streams are left.

    Args:
        response: `requests.Response` whose body was not read yet.
        options: Those of `requests.Session.send`.

    Raises:
        requests.ConnectionError: more than `MAX_ANSWER_BYTES`, longer than `MAX_ANSWER_S`, broken off, or with status
            200 and no JSON of MLflow.
    """
    if options.get("stream"):
        return response
    import requests
    from urllib3.exceptions import HTTPError

    ends, pieces, size = time.monotonic() + MAX_ANSWER_S, list[bytes](), 0
    try:
        # Each piece is what one call of the system gives, so time is looked at however slowly bytes come.
        while piece := response.raw.read1(_PIECE_BYTES, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise requests.ConnectionError(f"its answer has more than {MAX_ANSWER_BYTES >> 20} MiB")
            if time.monotonic() > ends:
                raise requests.ConnectionError(f"its answer had no end after {MAX_ANSWER_S:g} s")
    except (HTTPError, OSError, ValueError) as error:
        response.close()
        if isinstance(error, requests.RequestException):
            raise
        raise requests.ConnectionError(f"its answer broke off ({type(error).__name__})") from error
    response._content, response._content_consumed = b"".join(pieces), True
    # The least that MLflow says is {}. Stores, which get artifacts through the same sessions, answer with nothing.
    is_api = _API.search(urlsplit(response.url).path) is not None
    if is_api and response.status_code == 200 and (not response._content or _ERROR.match(response._content)):
        raise requests.ConnectionError(f"it answers with status 200 and {'an error' if size else 'nothing'}")
    return response
