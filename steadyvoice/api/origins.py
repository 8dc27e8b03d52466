"""Which web pages may use this server, and what browsers are told about its answers.

A server on loopback is reachable by every page that its user visits: by a form or a script that sends to 127.0.0.1, or by a name
of the page's own that resolves to it (DNS rebinding). So the Host header must name this server, and a browser's request that
another site caused is refused unless CORS_ORIGINS lists the site. Clients that are no browsers send none of the headers that
are looked at here and pass. Knows HTTP; knows nothing of what is asked for.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steadyvoice.api.errors import answer_of
from steadyvoice.errors import Forbidden, Misdirected, SteadyvoiceError

ANY = "*"
DEFAULT_PORTS = {"http": 80, "https": 443}
HOSTS_KEPT = 256  # Host headers that were found good: clients send the same few
NAME_CHARS = 80  # of a refused name that are told back

# Gradio's page carries its configuration in inline scripts, sets styles on elements, and compiles the small functions that
# run in the browser: hence the two "unsafe". Nothing may be loaded from, sent to or framed by another host.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; manifest-src 'self'; form-action 'self'; base-uri 'self'; frame-ancestors 'self'"
)
# Of everything else a browser only plays or shows the answer itself.
ANSWER_POLICY = "default-src 'none'; media-src 'self'; style-src 'unsafe-inline'; frame-ancestors 'none'"
COMMON_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    # Not "no-referrer": a browser then sends "Origin: null" with a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class RefuseForeign:
    """ASGI middleware: 421 for a Host that is not this server, 403 for what another site makes a browser send."""

    def __init__(self, app: ASGIApp, host: str, allowed_hosts: Sequence[str], cors_origins: Sequence[str]) -> None:
        """`host` is the address that the server listens on, `allowed_hosts` further names, `*.example.com` among them."""
        self._app = app
        self._everywhere = _is_unspecified(host)
        self._names = {"localhost", *([] if self._everywhere else [_unbracketed(host)]), *map(_unbracketed, allowed_hosts)}
        self._origins = set(cors_origins)
        self._host_of = lru_cache(HOSTS_KEPT)(self._check_host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            try:
                host = self._host_of(headers.get("host"), (scope.get("server") or ("", None))[0])
                self._check_origin(scope["method"], headers, host)
            except SteadyvoiceError as error:
                await answer_of(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check_host(self, header: str | None, server: str) -> SplitResult | None:
        """The Host header, if it names this server, which was reached at the address `server`. HTTP/1.0 has no such header, and
        no browser speaks that."""
        if header is None:
            return None
        host = _split("//" + header)
        if host is None or not host.hostname or not self._is_ours(host.hostname, server):
            known = ", ".join(sorted(self._names))
            raise Misdirected(
                f"the Host header {header[:NAME_CHARS]!r} is not a name of this server; known: {known} and the loopback "
                "addresses; STEADYVOICE_ALLOWED_HOSTS adds names"
            )
        return host

    def _is_ours(self, name: str, server: str) -> bool:
        """Rebinding needs a name that an attacker can point elsewhere. A literal address cannot be pointed anywhere, so the
        address that a connection was made to is accepted, and any address where the server listens on all of them."""
        if ANY in self._names or name in self._names or any(_matches(pattern, name) for pattern in self._names):
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or name == server or self._everywhere

    def _check_origin(self, method: str, headers: Headers, host: SplitResult | None) -> None:
        """What a browser tells of the page that caused a request: Sec-Fetch-Site, and before it was there, Origin."""
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if self._origins & {ANY, origin} or (origin is None and site is None):
            return
        if site is None:
            allowed = _same_origin(origin or "", host)
        else:
            allowed = site in ("same-origin", "none") or _is_navigation(method, headers)
        if not allowed:
            raise Forbidden(
                f"a page of another origin ({(origin or site or '')[:NAME_CHARS]!r}) may not use this server; "
                "STEADYVOICE_CORS_ORIGINS lists those that may"
            )


class SecurityHeaders:
    """ASGI middleware: what a browser may do with an answer. A header that a route has set itself stays."""

    def __init__(self, app: ASGIApp, shared: bool) -> None:
        """`shared`: pages of other origins may read answers, by CORS_ORIGINS."""
        self._app = app
        common = COMMON_HEADERS | ({} if shared else {"Cross-Origin-Resource-Policy": "same-origin"})
        self._of_page = Headers(common | {"Content-Security-Policy": PAGE_POLICY}).raw
        self._of_answer = Headers(common | {"Content-Security-Policy": ANSWER_POLICY}).raw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = dict(message.get("headers", ()))
                added = self._of_page if own.get(b"content-type", b"").startswith(b"text/html") else self._of_answer
                headers = [*message.get("headers", ()), *(header for header in added if header[0] not in own)]
                message = {**message, "headers": headers}
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)


def _is_navigation(method: str, headers: Headers) -> bool:
    """A link that a user follows: it shows our page in a tab, and the linking page learns nothing of it."""
    return (
        method in ("GET", "HEAD")
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def _same_origin(origin: str, host: SplitResult | None) -> bool:
    """Whether an Origin is the address in the Host header. Of the scheme only a proxy would know."""
    page = _split(origin)
    if page is None or host is None or page.scheme not in DEFAULT_PORTS:
        return False
    default = DEFAULT_PORTS[page.scheme]
    return (page.hostname, page.port or default) == (host.hostname, host.port or default)


def _split(url: str) -> SplitResult | None:
    """Nothing for what is no address: a port that is no number, brackets that do not close."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return None if parts.path or parts.query or parts.fragment or parts.username is not None else parts


def _matches(pattern: str, name: str) -> bool:
    return pattern.startswith("*.") and name.endswith(pattern[1:])


def _unbracketed(host: str) -> str:
    return host.strip("[]").lower()


def _is_unspecified(host: str) -> bool:
    try:
        return ipaddress.ip_address(_unbracketed(host)).is_unspecified
    except ValueError:
        return False
