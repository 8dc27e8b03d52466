"""What the process says of itself: /live, /health, /ready, /metrics, /memory. Knows nothing of audio or text."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from enum import Enum
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from steadyvoice.memory import rss_bytes
from steadyvoice.metrics import CONTENT_TYPE
from steadyvoice.serving.openapi import content, errors
from steadyvoice.serving.service import Service

Handler = Callable[[], Awaitable[JSONResponse]]
OPERATIONS: list[str | Enum] = ["operations"]


class Health(BaseModel):
    """The state of a probe."""

    model_config = ConfigDict(extra="allow")

    status: str


def add_health(app: FastAPI, service: Service) -> None:
    def probe(path: str) -> Callable[[Handler], Handler]:
        """A route for GET and HEAD; 503 has the same body as 200."""
        answers: dict[int | str, dict[str, Any]] = {
            **errors(),
            200: {"model": Health, "description": "Yes."},
            503: {"model": Health, "description": "No."},
        }

        def register(handler: Handler) -> Handler:
            name = path.strip("/")
            app.get(path, operation_id=name, tags=OPERATIONS, responses=answers)(handler)
            app.head(path, operation_id=f"{name}_head", tags=OPERATIONS, responses=answers)(handler)
            return handler

        return register

    @probe("/live")
    async def live() -> JSONResponse:
        """200 while event loop and engine thread turn; a loaded model is not needed."""
        stalled = service.engine.status().stalled
        return JSONResponse({"status": "stalled" if stalled else "live"}, 503 if stalled else 200)

    @probe("/health")
    async def health() -> JSONResponse:
        """The same as /live, under the name that other speech servers have for it."""
        stalled = service.engine.status().stalled
        return JSONResponse({"status": "stalled" if stalled else "healthy"}, 503 if stalled else 200)

    @probe("/ready")
    async def ready() -> JSONResponse:
        """200 while requests are taken. A model that is not loaded yet is ready: the first request loads it."""
        closing = service.door.closing
        state = service.engine.status().state.value
        body = {"status": "draining" if closing else "ready", "engine": service.card.name, "model": state}
        return JSONResponse(body, 503 if closing else 200)

    @app.get(
        "/metrics",
        operation_id="metrics",
        tags=OPERATIONS,
        response_class=Response,
        responses={**errors(), 200: content(CONTENT_TYPE, description="Prometheus's text format.")},
    )
    async def metrics() -> Response:
        """Metrics of the process."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    @app.get("/memory", operation_id="memory", tags=OPERATIONS, responses=errors())
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
