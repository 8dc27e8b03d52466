"""What the process says of itself: /live, /ready, /metrics, /memory, /v1/models. Knows nothing of audio or text."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from steadyvoice.memory import rss_bytes
from steadyvoice.metrics import CONTENT_TYPE
from steadyvoice.serving.service import Service


def add_health(app: FastAPI, service: Service) -> None:
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
