"""One HTTP connection with time limits. Knows HTTP/1.1 through uvicorn and h11, and nothing of routes.

uvicorn limits the time between two requests only. This adds:
- headers must be complete within `HEADERS_TIMEOUT_S`, or the progress timeout if that is shorter, else 408;
- an answer whose unsent bytes do not become fewer for the progress timeout is cut;
- an answer that is given before the body was read arrives: the rest of the body is read and dropped for a while before the
  connection is closed, as data that is never read makes the kernel discard what was sent;
- what is no HTTP is refused in the API's error shape;
- requests beyond `ConnectionLimits` get 503, except for health checks.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import socket
import struct
import sys
import termios
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle
from uvicorn.server import ServerState

from steadyvoice.api.errors import error_body, error_response
from steadyvoice.api.middleware import new_request_id
from steadyvoice.server.connection_limits import ConnectionTable

log = logging.getLogger(__name__)

HEADERS_TIMEOUT_S = 10.0
MAX_HEADER_BYTES = 16_384  # of headers that arrive in several pieces
LOOKS = 10  # at the unsent bytes, within one progress timeout
# How long the rest of a refused body is read: in total, and between two pieces. nginx has the same limits (lingering_time).
LINGER_S, LINGER_PAUSE_S = 30.0, 5.0
RETRY_AFTER_S = 5
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # struct linger: on, no time
HEALTH_CHECKS = frozenset(("/live", "/ready", "/health", "/metrics"))


class Connection(H11Protocol):
    """See the module's docstring."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        table: ConnectionTable,
        progress_timeout_s: float,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._routes: ASGIApp = self.app
        self.app = self._serve
        self._table = table
        self._progress_timeout_s = progress_timeout_s
        self._headers_timeout_s = min(HEADERS_TIMEOUT_S, progress_timeout_s)
        self._linger_pause_s = min(LINGER_PAUSE_S, progress_timeout_s)
        self._last_cycle: RequestResponseCycle | None = None  # that the table knows of
        self._served = True  # the last cycle: not refused at the connection limit
        self._ended = False  # an error was answered; what still comes is dropped
        self._headers_timer: asyncio.TimerHandle | None = None
        self._writes_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._unsent = 0
        self._progressed_at = 0.0

    # --- what the transport calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._table.opened(self)
        self._headers_timer = self.loop.call_later(self._headers_timeout_s, self._headers_are_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._table.remove(self)
        for timer in (self._headers_timer, self._writes_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        if not self._ended:
            super().data_received(data)
            self._follow()

    def resume_writing(self) -> None:
        self._progressed_at = self.loop.time()
        super().resume_writing()

    # --- what uvicorn calls

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._follow()

    def send_400_response(self, msg: str) -> None:
        """Called while h11's error is handled, which knows the status."""
        status = getattr(sys.exc_info()[1], "error_status_hint", HTTPStatus.BAD_REQUEST)
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            self._refuse(status, f"the request's headers are over {MAX_HEADER_BYTES} bytes", "headers_too_large")
        else:
            self._refuse(status, "this is not a valid HTTP/1.1 request", "invalid_http")

    def shutdown(self) -> None:
        if self._ended:
            self.transport.close()
        else:
            super().shutdown()

    def cut(self) -> None:
        """Close at once. Bytes that were not sent are lost."""
        self.transport.abort()

    @property
    def is_sending(self) -> bool:
        """Whether there are bytes that the kernel has not taken yet."""
        return bool(self.transport.get_write_buffer_size())

    # --- requests

    @property
    def _in_progress(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _follow(self) -> None:
        """Tell the table what this connection does now, and start or stop the timer of its headers."""
        if self._ended or self.transport.is_closing():
            return
        if self._in_progress:
            self._stop_headers_timer()
            if self.cycle is not self._last_cycle:
                self._last_cycle = self.cycle
                self._served = self._table.begin(self, self.scope["path"] in HEALTH_CHECKS)
            return
        if not self.is_sending:
            self._table.idle(self)
        if self._headers_timer is None and self.conn.trailing_data[0]:
            self._headers_timer = self.loop.call_later(self._headers_timeout_s, self._headers_are_late)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application that uvicorn calls: the routes, and the rest of a body that they did not read."""
        cycle, sends, held_back = self.cycle, True, False

        async def answer(message: Message) -> None:
            nonlocal sends, held_back
            if cycle.more_body:  # it was not all there when the answer began
                if message["type"] == "http.response.start":
                    sends = message["status"] != HTTPStatus.REQUEST_TIMEOUT
                    headers = [header for header in message.get("headers", ()) if header != CLOSE_HEADER]
                    message = {**message, "headers": [*headers, CLOSE_HEADER]}
                elif sends and not message.get("more_body", False):
                    message, held_back = {**message, "more_body": True}, True
            await send(message)
            self._watch_writes()

        app = self._routes if self._served else _refuse_for_now
        try:
            await app(scope, receive, answer)
            if held_back:
                self._table.idle(self)
                await self._drop_body(cycle, receive)
                await send({"type": "http.response.body"})
        except asyncio.CancelledError:  # the server stops, and the time for what still ran is over
            cycle.disconnected = True  # so that uvicorn misses no answer
            self.cut()

    # --- time limits

    def _stop_headers_timer(self) -> None:
        if self._headers_timer is not None:
            self._headers_timer.cancel()
            self._headers_timer = None

    def _headers_are_late(self) -> None:
        self._headers_timer = None
        if self.conn.trailing_data[0]:
            message = f"the request's headers were not complete within {self._headers_timeout_s:g} s"
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, message, "request_timeout")
        else:
            self.transport.close()

    def _watch_writes(self) -> None:
        """Look from time to time at what the kernel has not taken yet, until it has all."""
        if self._writes_timer is None and self.is_sending:
            self._unsent, self._progressed_at = unsent_bytes(self.transport), self.loop.time()
            self._writes_timer = self.loop.call_later(self._progress_timeout_s / LOOKS, self._look_at_writes)

    def _look_at_writes(self) -> None:
        self._writes_timer = None
        if not self.is_sending:
            self._follow()
            return
        now, unsent = self.loop.time(), unsent_bytes(self.transport)
        if unsent < self._unsent:
            self._progressed_at = now
        self._unsent = unsent
        if now - self._progressed_at >= self._progress_timeout_s:
            log.info("a connection is cut: %d bytes were not read for %g s", unsent, self._progress_timeout_s)
            # With a reset the kernel drops what it holds; otherwise it would keep trying for many minutes.
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.cut()
        else:
            self._writes_timer = self.loop.call_later(self._progress_timeout_s / LOOKS, self._look_at_writes)

    # --- the end

    def _refuse(self, status: int, message: str, code: str) -> None:
        """Answer an error that no route has seen, and close. The caller may still be sending."""
        self._ended = True
        self._stop_headers_timer()
        self._unset_keepalive_if_required()
        if self._in_progress:  # its body is no HTTP: the routes see a disconnect
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.cut()
            return
        body = json.dumps(error_body(message, code, "invalid_request_error")).encode()
        headers = [
            *self.server_state.default_headers,
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", new_request_id().encode()),
            CLOSE_HEADER,
        ]
        response = h11.Response(status_code=status, headers=headers, reason=HTTPStatus(status).phrase.encode())
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self._table.idle(self)
        self.flow.resume_reading()
        self.transport.write_eof()
        self._watch_writes()
        self._linger_timer = self.loop.call_later(self._linger_pause_s, self.transport.close)

    async def _drop_body(self, cycle: RequestResponseCycle, receive: Receive) -> None:
        """Read what the caller still sends, for as long as it sends and at most `LINGER_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while cycle.more_body:
                    async with asyncio.timeout(self._linger_pause_s):
                        if (await receive())["type"] == "http.disconnect":
                            return


async def _refuse_for_now(scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(
        503,
        "too many requests are in progress on this server",
        "too_many_connections",
        "server_error",
        retry_after_s=RETRY_AFTER_S,
        headers={"X-Request-Id": new_request_id(), "Connection": "close"},
    )
    await response(scope, receive, send)


def unsent_bytes(transport: asyncio.Transport) -> int:
    """Bytes that the other side has not acknowledged: in the transport, and in the kernel where it tells."""
    waiting = transport.get_write_buffer_size()
    with suppress(OSError, ValueError):
        queued = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        waiting += struct.unpack("i", queued)[0]
    return waiting
