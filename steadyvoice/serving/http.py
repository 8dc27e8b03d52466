"""The app that both services are: error handlers, middleware, health, and answers for paths and methods that do not exist."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.routing import APIRoute

from steadyvoice import __version__
from steadyvoice.serving.health import add_health
from steadyvoice.serving.http_errors import add_error_handlers, error_response
from steadyvoice.serving.middleware import BodyLimit, Observe
from steadyvoice.serving.service import Service

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def create_app(service: Service) -> FastAPI:
    """An app with everything but the routes that do the work."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(title=f"steadyvoice {service.role}", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    add_error_handlers(app)
    app.add_middleware(BodyLimit, service=service)
    app.add_middleware(Observe, service=service)
    add_health(app, service)
    return app


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


def caller_of(request: Request) -> str:
    """Who is served fairly against others."""
    return request.client.host if request.client else "local"
