"""Reads a multipart body within bounds of bytes and time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect
from starlette.types import Message

from jobs.serving.problems import HttpProblem

MAX_BYTES = 128 << 20
# A body that arrives more slowly than this keeps others out.
_BODY_S = 120.0
_MAX_FIELD_BYTES = 1 << 12
_MAX_FIELDS = 12
# Of a plain body; what is longer waits on disk, as files do.
_MEMORY_BYTES = 1 << 20
# Of a JSON body, which is read at once.
_MAX_JSON_BYTES = 1 << 20
# No type with a `+`: browsers run the script of an SVG.
_PICTURE_TYPE = re.compile(r"image/[a-z0-9.-]{1,40}")


@dataclass(frozen=True)
class FormBody:
    """Files and text fields of a request."""

    files: Mapping[str, UploadFile]
    fields: Mapping[str, list[str]]

    def media_type(self, name: str) -> str:
        """Type of a picture by its sender.

        It is recorded, and MLflow's pages show the file as that: no page and no script.
        """
        kind = self.files[name].content_type or ""
        return kind if _PICTURE_TYPE.fullmatch(kind) else "application/octet-stream"

    async def contents(self) -> dict[str, bytes]:
        """Reads all files into memory."""
        return {name: await file.read() for name, file in self.files.items()}

    def field(self, name: str, default: str) -> str:
        """A field that is there once at most."""
        values = self.fields.get(name, [default])
        if len(values) > 1:
            raise HttpProblem(400, f"{name} is given {len(values)} times; give it once")
        return values[0]

    def is_set(self, name: str) -> bool:
        """A field that is true or false (the default)."""
        value = self.field(name, "false")
        if value not in ("true", "false"):
            raise HttpProblem(400, f"{name} is {value[:40]!r}; need true or false")
        return value == "true"


class BoundedRequest:
    """Counts the bytes of a body as they arrive."""

    def __init__(self, request: Request, max_bytes: int = MAX_BYTES) -> None:
        self._request, self._max_bytes = request, max_bytes

    @asynccontextmanager
    async def form(self) -> AsyncIterator[FormBody]:
        """Reads a multipart body; its files last during the block.

        Raises:
            HttpProblem: The body is too large, too slow, or no multipart body.
        """
        kind = self._request.headers.get("content-type", "")
        if not kind.startswith("multipart/form-data"):
            raise HttpProblem(400, f"the body is {kind[:60] or 'of no type'}; need multipart/form-data with files")
        self._check_length()
        # Files beyond a megabyte wait on disk.
        parser = MultiPartParser(
            self._request.headers,
            self._chunks(),
            max_files=2,
            max_fields=_MAX_FIELDS,
            max_part_size=_MAX_FIELD_BYTES,
        )
        try:
            async with asyncio.timeout(_BODY_S):
                form = await parser.parse()
        except TimeoutError:
            raise HttpProblem(408, f"the body took more than {_BODY_S:.0f} s to arrive; send it again") from None
        except (MultiPartException, HTTPException, KeyError, ValueError) as error:
            reason = getattr(error, "message", None) or getattr(error, "detail", None) or "it is cut or damaged"
            raise HttpProblem(400, f"the multipart body cannot be read ({reason}); send it again") from error
        files: dict[str, UploadFile] = {}
        fields: dict[str, list[str]] = {}
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                files[name] = value
            else:
                fields.setdefault(name, []).append(value)
        try:
            yield FormBody(files, fields)
        finally:
            await form.close()

    @asynccontextmanager
    async def plain(self) -> AsyncIterator[IO[bytes]]:
        """Reads a plain body; its file lasts during the block.

        Raises:
            HttpProblem: The body is too large or too slow.
        """
        self._check_length()
        with SpooledTemporaryFile(_MEMORY_BYTES) as file:
            try:
                async with asyncio.timeout(_BODY_S):
                    async for chunk in self._chunks():
                        await asyncio.to_thread(file.write, chunk)
            except TimeoutError:
                raise HttpProblem(408, f"the body took more than {_BODY_S:.0f} s to arrive; send it again") from None
            file.seek(0)
            yield file

    def _check_length(self) -> None:
        length = self._request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._max_bytes:
            raise self._too_large()

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        count = 0
        try:
            async for chunk in self._request.stream():
                count += len(chunk)
                if count > self._max_bytes:
                    raise self._too_large()
                yield chunk
        except ClientDisconnect:
            raise HttpProblem(400, "the request ended before its body; send it again") from None

    def _too_large(self) -> HttpProblem:
        return HttpProblem(413, f"the body has more than {self._max_bytes >> 20} MiB; send smaller files")


class ShortBodyRoute(APIRoute):
    """Route whose JSON body is bounded before it is parsed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Reads the body within the bound, then handles it."""
        handle = super().get_route_handler()

        async def handle_bounded(request: Request) -> Response:
            async with BoundedRequest(request, _MAX_JSON_BYTES).plain() as file:
                body = file.read()

            async def receive() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await handle(Request(request.scope, receive))

        return handle_bounded
