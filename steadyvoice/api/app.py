"""The app that both services are: error handlers, middleware, health, and answers for paths and methods that do not exist."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from steadyvoice import __version__
from steadyvoice.admission.identity import Identify
from steadyvoice.api.documentation import add_documentation
from steadyvoice.api.errors import add_error_handlers, error_response
from steadyvoice.api.health import add_health
from steadyvoice.api.middleware import BodyLimit, BodyProgress, InternalErrors, Observe
from steadyvoice.api.model_routes import add_model_routes
from steadyvoice.api.openapi import schema_of
from steadyvoice.api.origins import RefuseForeign, SecurityHeaders
from steadyvoice.service.private_folder import SWEEP_S
from steadyvoice.service.service import Service

log = logging.getLogger(__name__)

# Of our own headers, what a script of an allowed origin may read.
EXPOSED_HEADERS = [
    *("Retry-After", "X-Request-Id", "X-Audio-Seconds", "X-Tokens", "X-Characters", "X-Queue-Seconds", "X-Inference-Seconds"),
    *("X-Engine", "X-Cached", "X-Speech-Id", "X-Speech-Defects", "X-Speech-Reduced", "X-Speed-Method"),
]
TITLES = {"asr": "steadyvoice speech to text", "tts": "steadyvoice text to speech"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def create_app(service: Service) -> FastAPI:
    """An app with everything but the routes that do the work."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_sweep_files(service))
        yield
        sweeping.cancel()
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title=TITLES[service.role],
        description=f"Errors of every route have the body of `ErrorBody`. The running engine is {service.spec.name}.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.service = service
    app.openapi = schema_of(app)  # type: ignore[method-assign]
    add_error_handlers(app)
    _add_middleware(app, service)
    add_health(app, service)
    add_model_routes(app, service)
    add_documentation(app)
    return app


def _add_middleware(app: FastAPI, service: Service) -> None:
    """The one that is added last is the first that a request meets."""
    settings = service.settings
    app.add_middleware(InternalErrors)
    app.add_middleware(BodyLimit, service=service)
    app.add_middleware(BodyProgress, timeout_s=settings.progress_timeout_s)
    # Also where no origin is allowed: Gradio, mounted, then leaves CORS to us instead of letting every origin in.
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
    )
    app.add_middleware(
        RefuseForeign, host=settings.host, allowed_hosts=settings.allowed_hosts, cors_origins=settings.cors_origins
    )
    app.add_middleware(Identify, role=service.role, trusted_proxies=settings.trusted_proxies)
    app.add_middleware(SecurityHeaders, shared=bool(settings.cors_origins))
    app.add_middleware(InternalErrors)  # of the middleware
    app.add_middleware(Observe, service=service)


async def _sweep_files(service: Service) -> None:
    """Delete files that are no longer used, as long as the app runs."""
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await asyncio.to_thread(service.files.sweep)
        except OSError:
            log.exception("old files could not be deleted")


def close_routes(app: FastAPI) -> None:
    """Answer wrong methods and unknown API paths in the API's own error shape.

    Otherwise the page, mounted at /, would take them for its own. Called after the last route is added and before the
    page is mounted.
    """
    known: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, Route):
            known.setdefault(route.path, set()).update(route.methods or ())
    # An object, not a function: Starlette lets it take every method, also those that HTTP does not name.
    app.router.routes += [Route(path, WrongMethod(methods), include_in_schema=False) for path, methods in known.items()]
    app.router.routes.append(Route("/v1/{path:path}", UnknownPath(), include_in_schema=False))


class WrongMethod:
    """Answers every method on a path that has a route for others."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = ", ".join(sorted(allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"{scope['method']} is not allowed here; allowed: {self._allowed}"
        headers = {"Allow": self._allowed}
        answer = error_response(405, message, "method_not_allowed", "invalid_request_error", headers=headers)
        await answer(scope, receive, send)


class UnknownPath:
    """Answers every path that has no route."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = error_response(404, "there is no such route", "not_found", "invalid_request_error")
        await answer(scope, receive, send)
