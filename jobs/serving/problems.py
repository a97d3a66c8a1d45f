"""Sentences of a server for what went wrong."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from isnet.errors import InputError
from jobs.serving.kept_fills import AlreadyVoted, NotKept
from trainplane.errors import UserError, split_remedy
from trainplane.serving.admission import QueueFull
from trainplane.serving.engine import EngineBusy
from trainplane.serving.routing import VersionNotServed
from trainplane.serving.service import AnswerFailed

logger = logging.getLogger(__name__)

_STATUS: dict[type[Exception], int] = {
    VersionNotServed: 404,
    NotKept: 404,
    AlreadyVoted: 409,
    UserError: 400,
    InputError: 400,
    QueueFull: 503,
    EngineBusy: 503,
    AnswerFailed: 500,
}
_SHORT_RETRY_S = 2
_OF_STATUS = {
    404: "there is nothing at {path}; the page is at /",
    405: "{path} takes no {method}; see /openapi.json for what it takes",
}


class HttpProblem(Exception):
    """A request that is refused before it is answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


def problem(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Answer that says what was wrong, and what to do."""
    error, remedy = split_remedy(message)
    return JSONResponse({"error": error, "remedy": remedy}, status, headers)


def add_handlers(app: FastAPI, on_refusal: Callable[[int], None]) -> None:
    """Makes every error of an application a sentence.

    Args:
        app: The application.
        on_refusal: Called with the status of each error.
    """

    def handler(answer: Callable[[Request, Any], JSONResponse]) -> Callable[[Request, Any], Awaitable[JSONResponse]]:
        async def handle(request: Request, error: Any) -> JSONResponse:
            response = answer(request, error)
            on_refusal(response.status_code)
            return response

        return handle

    for kind, status in _STATUS.items():
        app.add_exception_handler(kind, handler(lambda _, error, status=status: _sentence(status, error)))  # type: ignore[misc]
    app.add_exception_handler(HttpProblem, handler(lambda _, error: problem(error.status, error.message)))
    app.add_exception_handler(HTTPException, handler(_http))
    app.add_exception_handler(RequestValidationError, handler(_invalid))
    app.add_exception_handler(Exception, handler(_bug))


def _sentence(status: int, error: Exception) -> JSONResponse:
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(getattr(error, "retry_after_s", _SHORT_RETRY_S))
    return problem(status, str(error), headers)


def _http(request: Request, error: HTTPException) -> JSONResponse:
    template = _OF_STATUS.get(error.status_code, "{detail}; see /openapi.json")
    message = template.format(path=request.url.path[:80], method=request.method, detail=error.detail)
    return problem(error.status_code, message, dict(error.headers or {}))


def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or "the body"
    return problem(400, f"{place}: {first['msg']}; see /openapi.json for what {request.url.path[:80]} takes")


def _bug(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return problem(500, f"the server failed at this request ({type(error).__name__}); its log says where")
