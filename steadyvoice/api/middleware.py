"""Middleware of every request: its id, metrics, and limits of its body in bytes and in time.

Pure ASGI: Starlette's own wrapper class breaks streaming and disconnects.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadyvoice.api.errors import answer_bug, answer_of
from steadyvoice.errors import BodyTimeout, SteadyvoiceError, TooLarge
from steadyvoice.service.service import Service
from steadyvoice.service.voices.files import MAX_FILE_BYTES

log = logging.getLogger(__name__)

request_id_var: ContextVar[str] = ContextVar("request_id", default="-")
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
# Routes that take a file. Whole paths: the page has routes with a name in them that the client chooses.
VOICE_PATHS = frozenset(("/v1/voices", "/v1/audio/voices"))
UPLOAD_PATHS = frozenset(("/v1/audio/transcriptions", "/v1/audio/translations", "/gradio_api/upload"))
MULTIPART_OVERHEAD = 1_000_000  # bytes of boundaries and other fields beside the file
SMALL_BODY = 1_000_000  # bytes; for everything that carries no file
MIN_BYTES_PER_SECOND = 500  # on average: less than any speech codec makes live
BYTES_PER_CHAR = 12  # a character of JSON text at its longest, \\ud83d\\ude00


def new_request_id() -> str:
    """An id for work that no HTTP request of its own carries: a run of the page. Log lines show it from here on."""
    request_id = secrets.token_hex(8)
    request_id_var.set(request_id)
    return request_id


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


class InternalErrors:
    """Answers with 500 for an exception that is a bug, and logs its traceback once, with the request's id.

    Starlette's own catch-all lies around all other middleware, so its answer would have neither id nor headers. It also raises
    the exception again, which the server then logs a second time.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = finished = False

        async def watched(message: Message) -> None:
            nonlocal started, finished
            started |= message["type"] == "http.response.start"
            finished |= message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except SteadyvoiceError:
            raise
        except Exception as error:
            if started and not finished:
                raise  # the server cuts the connection, and logs the traceback: half an answer must not look like a whole one
            log.exception("the request failed")
            if not started:
                await (await answer_bug(Request(scope), error))(scope, receive, send)


class BodyLimit:
    """Counts the bytes of a body while it is read; a Content-Length over the limit is refused at once."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._upload = service.settings.max_upload_bytes
        self._voice = min(self._upload, MAX_FILE_BYTES)
        self._small = max(SMALL_BODY, service.settings.max_text_chars * BYTES_PER_CHAR)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carries_voice = scope["path"] in VOICE_PATHS
        carries_file = carries_voice or scope["path"] in UPLOAD_PATHS
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
            await answer_of(TooLarge(f"the request body has {int(declared)} bytes, over {what}"))(scope, receive, send)
            return
        try:
            await self._app(scope, counted, send)
        except TooLarge as error:  # read outside our own routes: the page's upload
            await answer_of(error)(scope, receive, send)


class BodyProgress:
    """Ends a request whose body stops arriving: it would keep its connection, and the stored part, for ever."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        """`timeout_s` may pass without a byte, and altogether beside what the body takes at `MIN_BYTES_PER_SECOND`."""
        self._app = app
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        complete, seen, waited_s = False, 0, 0.0

        async def timed() -> Message:
            """Once the body is complete only the end of the connection is awaited, which has no limit."""
            nonlocal complete, seen, waited_s
            if complete:
                return await receive()
            began = time.monotonic()
            try:
                async with asyncio.timeout(self._timeout_s):
                    message = await receive()
            except TimeoutError:
                raise BodyTimeout(f"no byte of the request body came for {self._timeout_s:g} s, which is the limit") from None
            complete = not message.get("more_body", False)
            seen += len(message.get("body", b""))
            waited_s += time.monotonic() - began
            if not complete and waited_s > self._timeout_s + seen / MIN_BYTES_PER_SECOND:
                raise BodyTimeout(
                    f"{seen} bytes of the request body came within {waited_s:.0f} s; at least {MIN_BYTES_PER_SECOND} bytes "
                    f"per second must come after the first {self._timeout_s:g} s"
                )
            return message

        await self._app(scope, timed, send)
