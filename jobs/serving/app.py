"""HTTP routes of `isnet serve`, over the core in `trainplane.serving`."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field

from isnet.images.open_image import MAX_PIXELS
from jobs.serving import openapi
from jobs.serving.bodies import MAX_BYTES, BoundedRequest, FormBody, ShortBodyRoute
from jobs.serving.fill import BLIND, INPUTS, SUFFIX_OF, checked_options, preview_png
from jobs.serving.invocations import CONTENT_TYPE
from jobs.serving.kept_fills import KeptFills
from jobs.serving.page_files import PAGE_HEADERS, page_file
from jobs.serving.photo_preview import add_preview
from jobs.serving.problems import HttpProblem, add_handlers, problem
from jobs.serving.samples import sample_photos
from jobs.serving.token import COOKIE, CROSS_SITE_HEADER, RATER_COOKIE, bearer, cookie_of, is_token, new_rater
from trainplane.errors import UserError
from trainplane.serving.admission import QueuePlace
from trainplane.serving.engine import ServedVersion
from trainplane.serving.service import Service, ServingRequest, ServingResponse, VersionAnswer
from trainplane.serving.traces import KEEPS, VerdictRecord

_OPEN_ROUTES = ("/healthz", "/ping", "/health")
_PAGE_ROUTES = ("/", "/docs")
_DISCONNECT_S = 0.5
_MAX_COMMENT = 2000
# Each decodes a whole picture, beside the queue.
_PREVIEWS_AT_ONCE = 2


@dataclass(frozen=True)
class AppSettings:
    """Token and bounds of an application."""

    # Not in the representation, which ends in logs.
    token: str = field(repr=False)
    max_pixels: int = MAX_PIXELS
    max_bytes: int = MAX_BYTES


class VoteBody(BaseModel):
    """Body of a verdict."""

    model_config = ConfigDict(extra="forbid")
    trace: Annotated[str, Field(max_length=80)]
    choice: Literal["A", "B", "tie", "neither"] | None = None
    rating: Literal["good", "bad"] | None = None
    comment: Annotated[str, Field(max_length=_MAX_COMMENT)] = ""


class GoldenBody(BaseModel):
    """Body of a mark for the golden set."""

    model_config = ConfigDict(extra="forbid")
    trace: Annotated[str, Field(max_length=80)]


def build_app(serving: Callable[[], AbstractAsyncContextManager[Service]], settings: AppSettings) -> FastAPI:
    """Builds the application.

    Args:
        serving: Opens the service in the loop of the server, ready to answer, and closes it.
        settings: Token and bounds.
    """
    memory, samples = KeptFills(), sample_photos()
    previews = asyncio.Semaphore(_PREVIEWS_AT_ONCE)
    votes = APIRouter(route_class=ShortBodyRoute)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with serving() as app.state.service:
            yield

    app = FastAPI(title="isnet serve", docs_url=None, redoc_url=None, lifespan=lifespan)

    def service() -> Service:
        return app.state.service  # type: ignore[no-any-return]

    add_handlers(app, lambda status: service().metrics.refuse(status))
    expected_cookie = cookie_of(settings.token)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        # The path that the router reads; that of the address depends on the header Host, which the client writes.
        path = request.scope["path"]
        refusal = None
        by_cookie = is_token(request.cookies.get(COOKIE), expected_cookie)
        by_header = is_token(bearer(request.headers.get("authorization")), settings.token)
        request.state.is_known = by_cookie or by_header
        if path not in _OPEN_ROUTES and not (path == "/" and "token" in request.query_params):
            name, value = CROSS_SITE_HEADER
            if not request.state.is_known:
                refusal = problem(
                    401, "the request has no valid token; open the address that the server printed", _BEARER
                )
            elif not by_header and request.method != "GET" and request.headers.get(name) != value:
                refusal = problem(403, f"the request has no header {name}: {value}; a page of another site cannot ask")
        response = await call_next(request) if refusal is None else refusal
        for name, value in PAGE_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    # The page.

    @app.get("/", include_in_schema=False)
    async def page(request: Request, token: str | None = None) -> Response:
        if token is None:
            return page_file("index.html", request.headers.get("accept-encoding", ""))
        if not is_token(token, settings.token):
            return problem(401, "the token of this address is not this server's; open the address that it printed last")
        # Relative, for a proxy that serves this below a path of its own.
        answer = RedirectResponse(".", 303)
        options: dict[str, Any] = {"httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}
        answer.set_cookie(COOKIE, expected_cookie, **options)
        if not request.cookies.get(RATER_COOKIE):
            answer.set_cookie(RATER_COOKIE, new_rater(), max_age=365 * 24 * 3600, **options)
        return answer

    @app.get("/page/{name}", include_in_schema=False)
    async def page_part(name: str, request: Request) -> Response:
        return page_file(name, request.headers.get("accept-encoding", ""))

    @app.get("/samples/{number}/{part}", include_in_schema=False)
    async def sample(number: int, part: str) -> Response:
        if not 1 <= number <= len(samples) or part not in INPUTS:
            raise HttpProblem(404, f"there is no sample {number}/{part[:20]}; GET /v1/versions lists them")
        read = samples[number - 1].photo if part == "photo" else samples[number - 1].mask
        return Response(await asyncio.to_thread(read), media_type="image/png")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return openapi.docs_page(app)

    # What operators ask.

    @app.get("/healthz", summary="Readiness: 200 once a version is open and warm")
    async def healthz(request: Request) -> JSONResponse:
        fault = service().fault
        # The sentence names addresses of stores.
        if fault is not None and not request.state.is_known:
            fault = "the audit trail cannot be followed; ask with the token"
        return JSONResponse({"status": "ready", "production": service().split.production, "fault": fault})

    @app.get("/ping", include_in_schema=False)
    @app.get("/health", include_in_schema=False)
    async def ping() -> Response:
        return Response("\n", media_type="application/json")

    @app.get("/metrics", summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service().metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/versions", summary="Versions that answer, their shares and gates")
    async def versions() -> dict[str, Any]:
        live, split = service().live, service().split
        return {
            "name": service().options.name,
            "alias": service().options.alias,
            "keep": service().options.keep,
            "mode": split.mode,
            "versions": [
                {
                    "version": number,
                    "digest": served.digest,
                    "roles": split.roles_of(number),
                    "share": split.share_of(number),
                    "trained_size": served.facts.get("trained_size"),
                    "gates": _gates(served),
                }
                for number, served in sorted(
                    live.served.items(), key=lambda item: split.roles_of(item[0]), reverse=True
                )
            ],
            "not_open": dict(live.faults),
            "samples": [
                {"name": sample.name, "photo": f"/samples/{n}/photo", "mask": f"/samples/{n}/mask"}
                for n, sample in enumerate(samples, start=1)
            ],
            "limits": {"max_pixels": settings.max_pixels, "max_bytes": settings.max_bytes},
        }

    # Filling.

    @app.post("/v1/fill", summary="Fill the hole of a photo, by one version or two", openapi_extra=openapi.FILL)
    async def fill(request: Request) -> Response:
        user = _user(request)
        # The place first: a body that nobody can answer is not read.
        async with service().queue.place(user) as place, BoundedRequest(request, settings.max_bytes).form() as body:
            wish = _fill_request(body, user)
            response = await _run(request, place, body, wish)
        memory.add(response)
        wants_file = request.headers.get("accept", "").startswith("image/") and len(response.answers) == 1
        headers = _headers(response)
        if wants_file:
            answer = response.answers[0]
            notes = "; ".join(answer.output.notes).encode("ascii", "replace").decode()
            return Response(
                answer.output.content, media_type=answer.output.media_type, headers={**headers, "X-ISNet-Notes": notes}
            )
        return JSONResponse(_fills(response), headers=headers)

    async def _run(request: Request, place: QueuePlace, body: FormBody, wish: ServingRequest) -> ServingResponse:
        """Waits and fills, unless the client goes away meanwhile."""

        async def work() -> ServingResponse:
            async with place.turn():
                contents = await body.contents()
                return await service().answer(
                    ServingRequest(
                        contents,
                        {name: body.media_type(name) for name in contents},
                        wish.options,
                        wish.versions,
                        wish.blind,
                        wish.keep,
                        wish.user,
                        {"bytes": sum(map(len, contents.values()))},
                    )
                )

        task = asyncio.create_task(work())
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_DISCONNECT_S)
                if not task.done() and await request.is_disconnected():
                    raise HttpProblem(499, "the client went away; send the request again")
            return await task
        finally:
            task.cancel()

    @app.get("/v1/fills/{trace}/{label}", summary="A filled file, in the photo's own mode, depth and format")
    async def filled(trace: str, label: str, download: Annotated[bool, Query()] = False) -> Response:
        output, fill = memory.file(trace, label), memory.trace(trace)
        headers = {"X-ISNet-Trace": trace}
        if not fill.blind or fill.is_voted:
            headers |= _version_headers(fill.versions[label])
        if download:
            headers["Content-Disposition"] = f'attachment; filename="filled{SUFFIX_OF[output.media_type]}"'
        return Response(output.content, media_type=output.media_type, headers=headers)

    @app.get("/v1/fills/{trace}/{label}/preview", summary="The same as a PNG of 8 bits for browsers")
    async def preview(trace: str, label: str) -> Response:
        content = memory.file(trace, label).content
        async with previews:
            png = await asyncio.to_thread(preview_png, content)
        return Response(png, media_type="image/png", headers={"X-ISNet-Trace": trace})

    add_preview(app, service, _user, max_bytes=settings.max_bytes, max_pixels=settings.max_pixels)

    @app.post("/invocations", summary="MLflow's scoring route, unchanged", openapi_extra=openapi.INVOCATIONS)
    async def invocations(request: Request) -> Response:
        user, kind = _user(request), request.headers.get("content-type", "application/json")
        bounded = BoundedRequest(request, settings.max_bytes)
        async with service().queue.place(user) as place, bounded.plain() as body, place.turn():
            inputs = {"body": await asyncio.to_thread(body.read)}
            response = await service().answer(
                ServingRequest(inputs, {"body": kind}, {CONTENT_TYPE: kind}, keep="facts", user=user)
            )
        output = response.answers[0].output
        return Response(
            output.content, int(output.facts["status"]), headers=_headers(response), media_type=output.media_type
        )

    # Votes.

    @votes.post("/v1/verdict", summary="Vote on a fill; the versions are told afterwards")
    async def verdict(request: Request, vote: VoteBody) -> dict[str, Any]:
        if (vote.choice is None) == (vote.rating is None):
            raise UserError("a verdict has a choice (A, B, tie, neither) or a rating (good, bad); give one of the two")
        trace = memory.trace(vote.trace)
        if vote.choice is not None and len(trace.versions) < 2:
            raise UserError("that fill has one answer, and a choice is between two; give a rating, good or bad")
        if vote.rating is not None and len(trace.versions) > 1:
            raise UserError("that fill has two answers; give a choice: A, B, tie or neither")
        memory.vote(vote.trace)
        record = VerdictRecord(
            trace=vote.trace,
            model=service().options.name,
            rater=_user(request),
            choice=vote.choice or vote.rating or "",
            comment=vote.comment,
            at=time.time(),
            versions={label: served.version for label, served in trace.versions.items()},
        )
        if trace.keep != "none":
            await service().record(lambda traces: traces.verdict(record))
        reveal = {
            label: {
                "version": served.version,
                "digest": served.digest,
                "milliseconds": round(trace.milliseconds[label], 1),
                "gates": _gates(served),
            }
            for label, served in trace.versions.items()
        }
        return {"recorded": trace.keep != "none", "reveal": reveal}

    @votes.post("/v1/golden", summary="Mark a fill for the golden set")
    async def golden(request: Request, mark: GoldenBody) -> dict[str, bool]:
        trace = memory.trace(mark.trace)
        if trace.keep != "pictures":
            raise UserError(
                "the pictures of that fill were not kept, and a golden set needs them; agree to it, and fill again"
            )
        user = _user(request)
        await service().record(lambda traces: traces.golden(mark.trace, user))
        return {"recorded": True}

    app.include_router(votes)
    return app


_BEARER = {"WWW-Authenticate": "Bearer"}


def _user(request: Request) -> str:
    """Name of a browser or a program that asks."""
    name = request.cookies.get(RATER_COOKIE) or request.headers.get("x-isnet-rater")
    if name and len(name) <= 80 and name.isprintable():
        return name
    return f"client-{request.client.host}" if request.client else f"client-{secrets.token_hex(4)}"


def _fill_request(body: FormBody, user: str) -> ServingRequest:
    """Checks a request before it waits."""
    missing = [name for name in INPUTS if name not in body.files]
    if missing:
        raise HttpProblem(400, f"the request has no file {' and no file '.join(missing)}; send photo and mask")
    keep = body.field("keep", "facts")
    if keep not in KEEPS:
        raise HttpProblem(400, f"keep is {keep[:40]!r}; need one of {', '.join(KEEPS)}")
    fields = {name: body.field(name, "") for name in body.fields if name != "versions"}
    unknown = sorted(fields.keys() - {"refine", "grow", "feather", "blind", "keep"})
    if unknown:
        raise HttpProblem(400, f"the field {unknown[0][:40]!r} is unknown; see /openapi.json for those there are")
    blind = body.is_set("blind")
    options = {**checked_options(fields), BLIND: blind}
    return ServingRequest({}, {}, options, body.fields.get("versions", []), blind, keep, user)


def _gates(served: ServedVersion) -> dict[str, Any] | None:
    if served.gates_passed is None:
        return None
    return {"passed": served.gates_passed, "failed": list(served.gates_failed)}


def _version_headers(served: ServedVersion) -> dict[str, str]:
    return {"X-ISNet-Version": served.version, "X-ISNet-Digest": served.digest}


def _headers(response: ServingResponse) -> dict[str, str]:
    headers = {"X-ISNet-Trace": response.trace}
    if response.blind:
        return headers
    versions = [answer.served for answer in response.answers]
    return headers | {
        "X-ISNet-Version": ", ".join(served.version for served in versions),
        "X-ISNet-Digest": ", ".join(served.digest for served in versions),
    }


def _fills(response: ServingResponse) -> dict[str, Any]:
    facts = response.answers[0].output.facts
    return {
        "trace": response.trace,
        "width": facts["width"],
        "height": facts["height"],
        "keep": response.keep,
        "fills": [_fill(response, answer) for answer in response.answers],
    }


def _fill(response: ServingResponse, answer: VersionAnswer) -> dict[str, Any]:
    file = f"/v1/fills/{response.trace}/{answer.label}"
    notes = answer.output.notes
    if response.blind:
        # A note may say for which size a version was trained: both answers have the notes of both.
        notes = tuple(sorted({note for each in response.answers for note in each.output.notes}))
    return {
        "label": answer.label,
        # Blind: the time would tell the versions apart, too.
        "version": None if response.blind else answer.served.version,
        "digest": None if response.blind else answer.served.digest,
        "milliseconds": None if response.blind else round(answer.milliseconds, 1),
        "notes": list(notes),
        "file": file,
        "media_type": answer.output.media_type,
        "preview": f"{file}/preview",
    }
