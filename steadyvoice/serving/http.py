"""What both apps' HTTP sides share: the app, errors as JSON, request ids, body limits, health, metrics.

This is the one place that maps `steadyvoice.errors` to answers. Knows nothing of audio or text.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadyvoice import __version__
from steadyvoice.errors import Cancelled, SteadyvoiceError, TooLarge
from steadyvoice.memory import rss_bytes
from steadyvoice.metrics import CONTENT_TYPE
from steadyvoice.serving.service import Service
from steadyvoice.serving.voices import MAX_FILE_BYTES

log = logging.getLogger(__name__)

T = TypeVar("T")
request_id_var: ContextVar[str] = ContextVar("request_id", default="-")
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
MULTIPART_OVERHEAD = 1_000_000  # bytes of boundaries and other fields beside the file
SMALL_BODY = 1_000_000  # bytes; for everything that carries no file
MAX_PARAM = 64  # characters of a field's name that are told back
BYTES_PER_CHAR = 12  # a character of JSON text at its longest, \\ud83d\\ude00
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


# --- the app


def create_app(service: Service) -> FastAPI:
    """An app with everything but the routes that do the work."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title=f"steadyvoice {service.role}", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    app.add_exception_handler(SteadyvoiceError, _answer_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_http_exception)
    app.add_exception_handler(ClientDisconnect, _answer_nobody)
    app.add_exception_handler(Exception, _answer_bug)
    app.add_middleware(BodyLimit, service=service)
    app.add_middleware(Observe, service=service)
    _add_health(app, service)
    return app


def _add_health(app: FastAPI, service: Service) -> None:
    @app.api_route("/live", methods=["GET", "HEAD"])
    async def live() -> JSONResponse:
        """200 while event loop and engine thread turn; a loaded model is not needed."""
        stalled = service.engine.status().stalled
        return JSONResponse({"status": "stalled" if stalled else "live"}, 503 if stalled else 200)

    @app.api_route("/ready", methods=["GET", "HEAD"])
    async def ready() -> JSONResponse:
        """200 while requests are taken. A model that is not loaded yet is ready: the first request loads it."""
        closing = service.door.closing
        state = service.engine.status().state.value
        body = {"status": "draining" if closing else "ready", "engine": service.card.name, "model": state}
        return JSONResponse(body, 503 if closing else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/memory")
    async def memory() -> dict[str, Any]:
        """Memory now and after each of the last steps, in bytes."""
        status = service.engine.status()
        return {
            "app": {"rss": rss_bytes()},
            "worker": {
                "pid": status.worker_pid,
                "state": status.state.value,
                "loads": status.loads,
                "restarts": status.restarts,
                "events": status.events,
            },
            "budget": {
                "bytes": status.budget_bytes,
                "share": status.budget_share,
                "longest_segment_s": status.longest_s,
                "last_batch": service.last_batch and asdict(service.last_batch),
            },
            "samples": [sample.as_dict() for sample in service.memory.samples()],
        }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        card = service.card
        return {
            "object": "list",
            "data": [
                {
                    "id": card.name,
                    "object": "model",
                    "created": 0,
                    "owned_by": "steadyvoice",
                    "kind": card.kind,
                    "languages": list(card.languages),
                    "embedded": card.embedded,
                    "license": card.license,
                    "note": card.note_en,
                    "revision": service.revision,
                    "state": service.engine.status().state.value,
                }
            ],
        }


def close_routes(app: FastAPI) -> None:
    """Answer wrong methods and unknown API paths in the API's own error shape.

    Otherwise the page, mounted at /, would take them for its own. Called after the last route is added and before the
    page is mounted.
    """
    known: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, APIRoute):
            known.setdefault(route.path, set()).update(route.methods or ())
    for path, methods in known.items():
        allowed = ", ".join(sorted(methods))

        async def wrong_method(request: Request, allowed: str = allowed) -> Response:
            message = f"{request.method} is not allowed here; allowed: {allowed}"
            return error_response(405, message, "method_not_allowed", "invalid_request_error", headers={"Allow": allowed})

        app.add_route(path, wrong_method, methods=sorted(METHODS - methods), include_in_schema=False)

    async def unknown(_: Request) -> Response:
        return error_response(404, "there is no such route", "not_found", "invalid_request_error")

    app.add_route("/v1/{path:path}", unknown, methods=sorted(METHODS), include_in_schema=False)


# --- errors


def error_body(message: str, code: str, kind: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def error_of(error: SteadyvoiceError) -> dict[str, Any]:
    return error_body(error.message, error.code, error.type, error.param)


def error_response(
    status: int,
    message: str,
    code: str,
    kind: str,
    param: str | None = None,
    retry_after_s: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    wait = {"Retry-After": str(math.ceil(retry_after_s))} if retry_after_s is not None else {}
    return JSONResponse(error_body(message, code, kind, param), status, {**wait, **(headers or {})})


async def _answer_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, SteadyvoiceError)
    return error_response(error.status, error.message, error.code, error.type, error.param, error.retry_after_s)


async def _answer_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # Numbers are places in the body, not names of fields.
    param = ".".join(part for part in first["loc"][1:] if isinstance(part, str))[:MAX_PARAM] or None
    return error_response(422, f"{param or 'body'}: {first['msg']}", "invalid_value", "invalid_request_error", param)


async def _answer_http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, TooLarge):  # raised while FastAPI read a body, which it takes for a malformed one
        return await _answer_error(_, error.__cause__)
    return error_response(error.status_code, str(error.detail), f"http_{error.status_code}", "invalid_request_error")


async def _answer_nobody(_: Request, error: Exception) -> Response:
    """The caller hung up while its body was being read."""
    return error_response(Cancelled.status, "the caller went away", Cancelled.code, Cancelled.type)


async def _answer_bug(_: Request, error: Exception) -> Response:
    # The traceback goes to the log with the request's id, and nowhere else.
    log.error("the request failed", exc_info=error)
    return error_response(500, "internal error", "internal_error", "server_error")


# --- middleware, pure ASGI: Starlette's own wrapper class breaks streaming and disconnects


class Observe:
    """Gives every request an id, counts and times it. The id is in the answer and in every log line of the request."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._metrics = service.metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = given if REQUEST_ID.match(given) else new_request_id()
        request_id_var.set(request_id)
        status, began = 500, time.monotonic()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], (b"x-request-id", request_id.encode())]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            # Routes by their template; everything else is the page, whose paths have no bound.
            route = getattr(scope.get("route"), "path", "page")
            self._metrics.requests.labels(route, str(status)).inc()
            self._metrics.request_seconds.labels(route).observe(time.monotonic() - began)


class BodyLimit:
    """Counts bodies while they are read: the Content-Length is believed only when it is already too much."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._upload = service.settings.max_upload_bytes
        self._voice = min(self._upload, MAX_FILE_BYTES)
        self._small = max(SMALL_BODY, service.settings.max_text_chars * BYTES_PER_CHAR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carries_voice = scope["path"].endswith(("/v1/voices", "/audio/voices"))
        carries_file = carries_voice or scope["path"].endswith(("/audio/transcriptions", "/upload"))
        file_limit = self._voice if carries_voice else self._upload
        limit = file_limit + MULTIPART_OVERHEAD if carries_file else self._small
        what = f"the upload limit of {file_limit / 1e6:g} MB" if carries_file else f"the limit of {limit} bytes"
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                raise TooLarge(f"the request body is over {what}", param="file" if carries_file else None)
            return message

        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            error = TooLarge(f"the request body has {int(declared)} bytes, over {what}")
            await error_response(413, error.message, error.code, error.type)(scope, receive, send)
            return
        try:
            await self._app(scope, counted, send)
        except TooLarge as error:  # read outside our own routes: the page's upload
            await error_response(413, error.message, error.code, error.type, error.param)(scope, receive, send)


# --- helpers of the routes


def new_request_id() -> str:
    """An id for work that no HTTP request of its own carries: a run of the page. Log lines show it from here on."""
    request_id = secrets.token_hex(8)
    request_id_var.set(request_id)
    return request_id


def caller_of(request: Request) -> str:
    """Who is served fairly against others."""
    return request.client.host if request.client else "local"


def server_sent(body: Mapping[str, Any]) -> bytes:
    """One server-sent event without a name, as OpenAI's SDK reads them."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, and cancel it when the caller hangs up. The request's body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the caller went away")
    finally:
        for left in (task, gone):
            left.cancel()
        with suppress(asyncio.CancelledError, SteadyvoiceError):
            await task


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def read_and_drop(request: Request) -> None:
    """Read a body that is refused: a caller that is still sending would otherwise see a broken pipe instead of the answer."""
    async for _ in request.stream():
        pass


class HoldingResponse(StreamingResponse):
    """A streamed answer that holds resources (a place in the house, an upload) until it is over, however it ends.

    A generator cannot do this: when the caller is gone before the first byte, it never starts and its `finally` never runs.
    """

    def __init__(self, content: AsyncIterator[bytes], hold: AsyncExitStack, timeout_s: float, **options: Any) -> None:
        super().__init__(content, **options)
        self._hold = hold
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._hold:
            try:
                async with asyncio.timeout(self._timeout_s):
                    await super().__call__(scope, receive, send)
            except TimeoutError:
                # A caller that does not read what it asked for. Half an answer must not look like a whole one: the server
                # cuts a connection whose last chunk never came.
                log.warning("a streamed answer was not read within %g s and is cut", self._timeout_s)
            except SteadyvoiceError as error:
                log.warning("a streamed answer failed in the middle and is cut: %s", error.code)
