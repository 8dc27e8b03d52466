"""What every request passes: its id, metrics, and the limit of its body.

Pure ASGI: Starlette's own wrapper class breaks streaming and disconnects.
"""

from __future__ import annotations

import re
import secrets
import time
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadyvoice.errors import TooLarge
from steadyvoice.serving.http_errors import error_response
from steadyvoice.serving.service import Service
from steadyvoice.serving.voices import MAX_FILE_BYTES

request_id_var: ContextVar[str] = ContextVar("request_id", default="-")
REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
MULTIPART_OVERHEAD = 1_000_000  # bytes of boundaries and other fields beside the file
SMALL_BODY = 1_000_000  # bytes; for everything that carries no file
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
