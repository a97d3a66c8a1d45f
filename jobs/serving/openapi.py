"""Bodies of routes, and a page of all routes."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

_FILE = {"type": "string", "format": "binary"}
_PIXELS = {"type": "integer", "minimum": 0, "maximum": 1024, "default": 0}
FILL: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["photo", "mask"],
                    "properties": {
                        "photo": {**_FILE, "description": "Any size and mode"},
                        "mask": {**_FILE, "description": "White is the hole; the photo's own size"},
                        "versions": {
                            "type": "array",
                            "items": {"type": "string"},
                            "maxItems": 2,
                            "description": "Versions to answer; none lets the server choose one",
                        },
                        "refine": {"type": "string", "enum": ["auto", "off"], "default": "auto"},
                        "grow": {**_PIXELS, "description": "Pixels by which the hole is widened"},
                        "feather": {**_PIXELS, "description": "Pixels over which the border fades, in the hole"},
                        "blind": {"type": "boolean", "default": False, "description": "Hide versions until the vote"},
                        "keep": {
                            "type": "string",
                            "enum": ["none", "facts", "pictures"],
                            "default": "facts",
                            "description": "What may be recorded; never more than the server keeps",
                        },
                    },
                }
            }
        },
    }
}
INVOCATIONS: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}


def docs_page(app: FastAPI) -> HTMLResponse:
    """Lists the routes, without a script and without another host."""
    rows = [
        f"<tr><td>{method.upper()}<td><code>{escape(path)}</code><td>{escape(route.get('summary', ''))}"
        for path, methods in app.openapi()["paths"].items()
        for method, route in methods.items()
    ]
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8><title>isnet serve: routes</title><h1>Routes</h1>"
        f"<table>{''.join(rows)}</table><p>In full: <a href=openapi.json>openapi.json</a></p></html>"
    )
