"""Running an app: logging, the listening socket, and draining before the end. Knows nothing of routes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from steadyvoice.admission.concurrency_limit import ConcurrencyLimit
from steadyvoice.api.middleware import request_id_var
from steadyvoice.engine_specs import NoEngine
from steadyvoice.server.accept import Acceptor
from steadyvoice.server.connection import MAX_HEADER_BYTES, Connection
from steadyvoice.server.connection_limits import ConnectionTable, connection_limits
from steadyvoice.server.listen import listen
from steadyvoice.service.service import Service
from steadyvoice.settings import Settings, SettingsError, load_settings

log = logging.getLogger(__name__)

EXIT_CRASH = 70  # a bug; a restart may help
EXIT_BAD_START = 2  # a configuration error; a restart does not help
GRACE_AFTER_DRAIN_S = 3  # for open page connections, which would otherwise never end
SENT_LOOK_S = 0.1  # between two looks, while draining, whether finished answers have been sent
DATE_S = 1.0  # the resolution of an answer's Date


class DrainingServer(uvicorn.Server):
    """On the first SIGTERM or SIGINT: not ready, refuse new requests, finish those in flight, then stop. On the second: stop."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._table = ConnectionTable(connection_limits())
        self._stopping = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the app, then accept connections at the sockets."""
        await super().startup(sockets=[])
        self.servers = [Acceptor(listener, self._table, self._connection) for listener in sockets or ()]  # type: ignore[misc]

    def _connection(self) -> Connection:
        timeout_s = self._service.settings.progress_timeout_s
        return Connection(self.config, self.server_state, self.lifespan.state, self._table, timeout_s)

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether it is to stop."""
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                async with asyncio.timeout(DATE_S):
                    await self._stopping.wait()

    @property
    def _limit(self) -> ConcurrencyLimit:
        return self._service.admission.limit

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._limit.draining:
            self._stop(sig, frame)
            return
        self._limit.drain()
        log.info("draining: %d requests to finish, at most %g s", self._limit.in_flight, self._service.settings.drain_s)
        asyncio.get_running_loop().call_soon_threadsafe(lambda: asyncio.ensure_future(self._drain(sig, frame)))

    async def _drain(self, sig: int, frame: FrameType | None) -> None:
        drain_s = self._service.settings.drain_s
        deadline = time.monotonic() + drain_s
        if not await asyncio.to_thread(self._limit.wait_idle, drain_s):
            log.warning("%d requests did not finish in time and get 503", self._limit.in_flight)
            await asyncio.to_thread(self._service.engine.close)  # resolves every ticket
            await asyncio.to_thread(self._limit.wait_idle, GRACE_AFTER_DRAIN_S)
        while any(connection.is_sending for connection in self._table) and time.monotonic() < deadline:
            await asyncio.sleep(SENT_LOOK_S)
        self._stop(sig, frame)

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        asyncio.get_running_loop().call_soon_threadsafe(self._stopping.set)


def serve(app: FastAPI, host: str, port: int) -> None:
    """Run until asked to stop. Exits with 0 then, and with `EXIT_BAD_START` when the address cannot be had."""
    service: Service = app.state.service
    try:
        listener = listen(host, port)
    except (OSError, UnicodeError) as error:
        log.error("cannot listen on %s:%d: %s", host, port, getattr(error, "strerror", None) or error)
        service.close()
        raise SystemExit(EXIT_BAD_START) from None
    tempfile.tempdir = str(service.files.unfinished)  # where Starlette spools forms, and libraries put what they leave
    # Without its engine an app can only refuse requests; a supervisor restarts it when it ends.
    service.engine.on_crash = lambda: os._exit(EXIT_CRASH)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would trust every client on loopback; see `admission.identity`
        ws="none",
        http="h11",
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_AFTER_DRAIN_S,
    )
    # uvicorn raises the signal again once it has stopped; by then it means that all is well.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    log.info("steadyvoice %s on http://%s:%d, engine %s", service.role, host, port, service.spec.name)
    DrainingServer(config, service).run(sockets=[listener])


def run_app(build: Callable[[Settings], FastAPI], port_of: Callable[[Settings], int]) -> None:
    """An app's `main`: settings, log, app, serve. Exits with `EXIT_BAD_START` where no restart would help."""
    set_up_logging("info")
    try:
        settings = load_settings()
        set_up_logging(settings.log_level)
        app = build(settings)
    except (SettingsError, NoEngine) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the log may be the thing that is set wrongly
        raise SystemExit(EXIT_BAD_START) from None
    serve(app, settings.host, port_of(settings))


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id_var.get()
        return True


def set_up_logging(level: str) -> None:
    """One line per event on stderr, with the request's id."""
    handler = logging.StreamHandler()
    handler.addFilter(_RequestIdFilter())
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("httpx", "httpcore", "asyncio", "uvicorn.access", "multipart"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
