"""The identity of a caller. Every limit, total and cache per caller uses `caller_of`, so that all of them mean the same.

A caller is a visitor of a page, known by a cookie that this process has signed, or else an address. What a client only claims is
ignored: a cookie that was not signed here, the page's session hash, and X-Forwarded-For unless it comes from a proxy in
TRUSTED_PROXIES. Knows HTTP; knows nothing of what the callers ask for.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

STATE = "caller"  # where the middleware leaves the caller, in the request's state
VISITOR_BYTES = 16  # of a visitor's random number: 128 bits
# What a proxy tells of the client and of the address that the client used. Gradio builds addresses from some of them.
FORWARDED = (b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-gradio-server", b"forwarded")


def caller_of(request: Any) -> str:
    """The caller of a request of FastAPI or of Gradio: an address, or `visitor:` and a number."""
    return str(getattr(request.state, STATE))


class Identify:
    """ASGI middleware that finds the caller of each request, and gives a browser that opens a page its cookie."""

    def __init__(self, app: ASGIApp, role: str, trusted_proxies: Sequence[str]) -> None:
        """`role` tells the cookies of two apps on one host apart: cookies do not know ports."""
        self._app = app
        self._cookie = f"steadyvoice-{role}-visitor"
        self._key = secrets.token_bytes(32)  # a restart makes visitors new ones
        # These two cast nothing: uvicorn's types and Starlette's describe the same protocol.
        self._behind_proxy = ProxyHeadersMiddleware(self._identify, list(trusted_proxies))  # type: ignore[arg-type]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if not any(name in FORWARDED for name, _ in scope["headers"]):
            await self._identify(scope, receive, send)
            return
        peer = scope["client"][0] if scope.get("client") else None
        if peer not in self._behind_proxy.trusted_hosts:
            # In place: the middleware around this one reads from the same scope which route was taken.
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in FORWARDED]
        await self._behind_proxy(scope, receive, send)  # type: ignore[arg-type]

    async def _identify(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_cookies = any(name == b"cookie" for name, _ in scope["headers"])
        visitor = self._visitor(HTTPConnection(scope).cookies.get(self._cookie, "")) if has_cookies else ""
        address = scope["client"][0] if scope.get("client") else "local"
        scope.setdefault("state", {})[STATE] = f"visitor:{visitor}" if visitor else address

        async def send_with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start" and _is_page(message):
                MutableHeaders(scope=message).append("set-cookie", self._new_cookie(secure=scope["scheme"] == "https"))
            await send(message)

        await self._app(scope, receive, send if visitor or scope["method"] != "GET" else send_with_cookie)

    def _visitor(self, cookie: str) -> str:
        """The number in a cookie that was signed here, or nothing."""
        number, _, signature = cookie.partition(".")
        return number if hmac.compare_digest(signature.encode(), self._signature(number).encode()) else ""

    def _signature(self, number: str) -> str:
        return hmac.new(self._key, number.encode(), hashlib.sha256).hexdigest()

    def _new_cookie(self, secure: bool) -> str:
        number = secrets.token_hex(VISITOR_BYTES)
        # Lax, so that a link from another site finds the visitor too; requests that other sites send are refused anyway.
        options = "Path=/; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
        return f"{self._cookie}={number}.{self._signature(number)}; {options}"


def _is_page(message: Message) -> bool:
    media_type = Headers(raw=message.get("headers", [])).get("content-type", "")
    return message["status"] == 200 and media_type.startswith("text/html")
