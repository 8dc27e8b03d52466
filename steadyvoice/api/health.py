"""State of the process: /live, /health, /ready, /metrics, /memory. Knows nothing of audio or text."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from steadyvoice.api.openapi import content, errors
from steadyvoice.errors import EngineUnavailable
from steadyvoice.memory import rss_bytes
from steadyvoice.metrics import CONTENT_TYPE
from steadyvoice.service.service import Service

Handler = Callable[[], Awaitable[JSONResponse]]
DRAINING_S = 10.0  # after which another process may have taken this one's place
OPERATIONS: list[str | Enum] = ["operations"]


class Health(BaseModel):
    """The state of a probe."""

    model_config = ConfigDict(extra="allow")

    status: str


@dataclass(frozen=True)
class _Refusal:
    """Why an app is not ready, and the seconds after which it may be."""

    status: str
    reason: str
    retry_after_s: float


def _refusal(service: Service) -> _Refusal | None:
    """Each reason ends by time: behind a load balancer no request arrives that could end it."""
    if service.admission.limit.draining:
        return _Refusal("draining", "the server is draining before it stops", DRAINING_S)
    try:
        service.admission.breaker.check()
    except EngineUnavailable as error:
        return _Refusal("engine_failing", error.message, error.retry_after_s or 0.0)
    status = service.engine.status()
    if status.load_backoff_s > 0:
        return _Refusal("load_failing", status.last_error or "the model could not be loaded", status.load_backoff_s)
    return None


def add_health(app: FastAPI, service: Service) -> None:
    _add_probes(app, service)
    _add_measurements(app, service)


def _add_probes(app: FastAPI, service: Service) -> None:
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
        """200 while the next request would be let through to the engine. A model that is not loaded yet is ready: the first
        request loads it. Otherwise `status` is `draining`, `engine_failing` or `load_failing`, with a `reason`."""
        body = {"status": "ready", "engine": service.spec.name, "model": service.engine.status().state.value}
        if (refusal := _refusal(service)) is None:
            return JSONResponse(body)
        wait = {"Retry-After": str(math.ceil(refusal.retry_after_s))}
        return JSONResponse(body | {"status": refusal.status, "reason": refusal.reason}, 503, headers=wait)


def _add_measurements(app: FastAPI, service: Service) -> None:
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
