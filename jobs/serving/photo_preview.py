"""Previews of photos that no browser shows: TIFF, HEIC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

from isnet.images.photo import read_photo
from jobs.serving.bodies import BoundedRequest
from jobs.serving.fill import preview_png
from jobs.serving.problems import HttpProblem
from trainplane.serving.service import Service

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo"],
                    "properties": {"photo": {"type": "string", "format": "binary"}},
                }
            }
        },
    }
}


def add_preview(
    app: FastAPI, service: Callable[[], Service], user_of: Callable[[Request], str], *, max_bytes: int, max_pixels: int
) -> None:
    """Adds the route `POST /v1/preview`.

    It waits in line as a fill does. The answer is an upright PNG of 8 bits, its sides at most those of a fill's
    preview; `X-ISNet-Size` has the photo's own size, which the mask needs: 4000x3000.
    """

    @app.post("/v1/preview", summary="A photo as a PNG of 8 bits, for browsers", openapi_extra=_BODY)
    async def preview_of(request: Request) -> Response:
        user = user_of(request)
        async with service().queue.place(user) as place, BoundedRequest(request, max_bytes).form() as body:
            if "photo" not in body.files:
                raise HttpProblem(400, "there is no photo; send it as the file photo")
            async with place.turn():
                content = (await body.contents())["photo"]
                png, width, height = await asyncio.to_thread(_shown, content, max_pixels)
        return Response(png, media_type="image/png", headers={"X-ISNet-Size": f"{width}x{height}"})


def _shown(content: bytes, max_pixels: int) -> tuple[bytes, int, int]:
    """Preview of a photo, and the photo's own upright size."""
    height, width = read_photo(content, max_pixels=max_pixels).size
    return preview_png(content), width, height
