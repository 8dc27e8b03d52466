"""The text-to-speech app on `GatedVoice`, in this process, so that a test sees both of its sides."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Listener
from pathlib import Path

import httpx
import uvicorn

from app_tts import build_app
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.protocol import MemoryPlan
from steadyvoice.provision.service_factory import create_service
from steadyvoice.service.service import Service
from steadyvoice.settings import Settings
from steadyvoice.testing.ports import free_port


@dataclass
class Gated:
    """A running server whose engine stops before a sentence with the word "gate"."""

    client: httpx.Client
    service: Service
    gate: Listener


@contextmanager
def gated_server(folder: Path, *, memory: MemoryPlan | None = None, **settings: object) -> Iterator[Gated]:
    address = str(folder / "gate")
    port = free_port()
    spec = WorkerSpec("tests.api.gated_voice:GatedVoice", {"gate": address}, memory=memory or MemoryPlan())
    service = create_service(Settings(tts_port=port, **settings), "tts", spec)  # type: ignore[arg-type]
    app = build_app(service.settings, service)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, timeout_graceful_shutdown=3))
    thread = threading.Thread(target=uvicorn_server.run)
    with Listener(address) as gate, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        thread.start()
        while True:
            try:
                client.get("/ready")
                break
            except httpx.ConnectError:
                thread.join(0.02)
        yield Gated(client, service, gate)
        uvicorn_server.should_exit = True
    thread.join()
    service.close()
