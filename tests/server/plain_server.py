"""The server of the apps with an application of the test's own, in a thread, and raw connections to it."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import uvicorn
from starlette.types import ASGIApp

from steadyvoice.server import run
from steadyvoice.server.connection_limits import ConnectionLimits
from steadyvoice.server.listen import listen

TIMEOUT_S = 20


@dataclass
class Answer:
    """One answer as it was read. `left` is what came after it."""

    status: int
    headers: dict[str, str]
    body: bytes
    left: bytes = field(repr=False, default=b"")

    @property
    def error(self) -> dict[str, Any]:
        return json.loads(self.body)["error"]


class PlainServer:
    """A running server."""

    def __init__(self, address: tuple[str, int], server: run.DrainingServer) -> None:
        self.address, self.server = address, server

    def connect(self, sent: bytes = b"", receive_buffer: int | None = None) -> socket.socket:
        """A connection on which `sent` was sent."""
        connection = socket.socket()
        connection.settimeout(TIMEOUT_S)
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(self.address)
        connection.sendall(sent)
        return connection

    def get(self, path: str) -> Answer:
        with self.connect(b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode()) as connection:
            return read_answer(connection)


def read_answer(connection: socket.socket, before: bytes = b"") -> Answer:
    """Read one answer with a Content-Length."""
    data = before
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        assert more, f"the connection ended after {data!r}"
        data += more
    head, body = data.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    length = int(headers["content-length"])
    while len(body) < length:
        more = connection.recv(65_536)
        assert more, "the answer is cut"
        body += more
    return Answer(int(first.split()[1]), headers, body[:length], body[length:])


def is_ended(connection: socket.socket) -> bool:
    """Whether the other side closes the connection, with no further byte. Waits for it."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@contextmanager
def plain_server(app: ASGIApp, limits: ConnectionLimits, progress_timeout_s: float = TIMEOUT_S) -> Iterator[PlainServer]:
    service: Any = SimpleNamespace(settings=SimpleNamespace(progress_timeout_s=progress_timeout_s))
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", lifespan="off", timeout_graceful_shutdown=1)
    with patch.object(run, "connection_limits", lambda: limits):
        server = run.DrainingServer(config, service)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield PlainServer(listener.getsockname()[:2], server)
    finally:
        server.should_exit = True
        if server.started:
            server.servers[0].get_loop().call_soon_threadsafe(server._stopping.set)
        thread.join(TIMEOUT_S)
        assert not thread.is_alive()
