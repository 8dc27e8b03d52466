"""Slow, silent and malformed clients on real connections."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from starlette.types import Receive, Scope, Send

from steadyvoice.server.connection import MAX_HEADER_BYTES
from steadyvoice.server.connection_limits import ConnectionLimits
from tests.server.plain_server import PlainServer, is_ended, plain_server, read_answer

SHORT_S = 0.4  # the progress timeout where a test waits for it
LARGE = 50_000_000  # bytes of an answer; more than kernels keep for one connection


class App:
    """/large answers `LARGE` bytes at once, /wait when `go` is set, /read what it was sent, everything else "ok"."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.gone = threading.Event()  # a caller of /wait has hung up

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b"ok"
        if scope["path"] == "/large":
            body = bytes(LARGE)
        if scope["path"] in ("/read", "/wait"):
            body = await self._read(receive)
        if scope["path"] == "/wait":
            while not self.go.is_set():
                if (await receive())["type"] == "http.disconnect":
                    self.gone.set()
                    return
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return body


@pytest.fixture(scope="module")
def impatient() -> Iterator[PlainServer]:
    with plain_server(App(), ConnectionLimits(100, 4), SHORT_S) as server:
        yield server


@pytest.fixture(scope="module")
def patient() -> Iterator[PlainServer]:
    with plain_server(App(), ConnectionLimits(100, 4)) as server:
        yield server


# --- headers


@pytest.mark.parametrize("sent", [b"G", b"GET / HTTP/1.1\r\nHost: x\r\n", b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: "])
def test_headers_that_do_not_end_in_time_get_408_as_json(impatient: PlainServer, sent: bytes) -> None:
    with impatient.connect(sent) as connection:
        answer = read_answer(connection)
        assert answer.status == 408
        assert answer.error["code"] == "request_timeout"
        assert f"{SHORT_S} s" in answer.error["message"]
        assert len(answer.headers["x-request-id"]) == 16
        assert is_ended(connection)


def test_headers_that_drip_do_not_move_their_time_limit(impatient: PlainServer) -> None:
    with impatient.connect(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ") as connection:
        connection.settimeout(SHORT_S / 10)
        while True:
            try:
                assert connection.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                connection.sendall(b"a")
        assert read_answer(connection).status == 408


def test_a_connection_that_never_sent_a_byte_is_closed_without_an_answer(impatient: PlainServer) -> None:
    with impatient.connect() as connection:
        assert is_ended(connection)


def test_the_second_request_has_the_same_time_for_its_headers(impatient: PlainServer) -> None:
    with impatient.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert read_answer(connection).status == 200
        connection.sendall(b"GET / HT")
        assert read_answer(connection).status == 408


def test_half_a_request_behind_a_whole_one_has_it_too(impatient: PlainServer) -> None:
    with impatient.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET / HT") as connection:
        first = read_answer(connection)
        assert first.status == 200
        assert read_answer(connection, first.left).status == 408


def test_a_request_that_is_long_at_work_is_not_late(impatient: PlainServer) -> None:
    app = App()
    with plain_server(app, ConnectionLimits(100, 4), 0.2) as server, server.connect() as connection:
        connection.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not app.gone.wait(0.6)
        assert server.get("/").status == 200


# --- what is no HTTP


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_http"),  # without a Host
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n", 400, "invalid_http"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "invalid_http"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * MAX_HEADER_BYTES, 431, "headers_too_large"),
        (b"POST /read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n", 400, "invalid_http"),
    ],
)
def test_what_is_no_http_is_refused_in_the_api_s_error_shape(patient: PlainServer, sent: bytes, status: int, code: str) -> None:
    with patient.connect(sent) as connection:
        answer = read_answer(connection)
        assert (answer.status, answer.error["code"]) == (status, code)
        assert answer.headers["x-request-id"]
        assert answer.headers["connection"] == "close"
        assert is_ended(connection)


def test_garbage_behind_a_request_does_not_spoil_its_answer(patient: PlainServer) -> None:
    with patient.connect(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\x00garbage\r\n\r\n") as connection:
        first = read_answer(connection)
        assert (first.status, first.body) == (200, b"ok")
        assert read_answer(connection, first.left).status == 400
        assert is_ended(connection)


def test_a_body_that_turns_into_garbage_ends_the_work_on_it() -> None:
    app = App()
    with plain_server(app, ConnectionLimits(10, 2)) as server:
        head = b"POST /wait HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        with server.connect(head + b"2\r\nok\r\n") as connection:
            connection.sendall(b"zz\r\n")
            assert read_answer(connection).status == 400
            assert app.gone.wait(10)


# --- answers that come before the body was read


def test_an_answer_before_the_body_arrives_and_the_body_is_dropped(patient: PlainServer) -> None:
    size = 20_000_000  # far more than kernels keep: without reading, the answer would be lost in a reset
    with patient.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size) as connection:
        answer = read_answer(connection)
        assert answer.headers["connection"] == "close"
        for _ in range(20):
            connection.sendall(bytes(size // 20))
        assert is_ended(connection)


def test_the_rest_of_a_body_is_not_waited_for_longer_than_it_moves(impatient: PlainServer) -> None:
    with impatient.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1") as connection:
        assert read_answer(connection).status == 200
        assert is_ended(connection)


def test_a_server_that_stops_waits_for_no_rest_of_a_body_and_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    with plain_server(App(), ConnectionLimits(100, 4)) as server:
        connection = server.connect(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1")
        assert read_answer(connection).status == 200
    with connection:
        assert is_ended(connection)

    assert not [record for record in caplog.records if record.exc_info]


def test_a_connection_whose_body_was_read_serves_the_next_request(patient: PlainServer) -> None:
    with patient.connect(b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n1") as connection:
        for rest in (b"23", b"POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n123"):
            connection.sendall(rest)
            answer = read_answer(connection)
            assert answer.body == b"123"
            assert "connection" not in answer.headers


# --- readers


def test_an_answer_that_is_not_read_is_cut(impatient: PlainServer) -> None:
    with impatient.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n", receive_buffer=4_096) as connection:
        assert is_reset(connection)


def test_a_connection_that_is_closed_after_an_unread_answer_is_cut_too(impatient: PlainServer) -> None:
    request = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with impatient.connect(request, receive_buffer=4_096) as connection:
        assert is_reset(connection)


def is_reset(connection: socket.socket) -> bool:
    """Wait until the other side resets the connection; reads nothing."""
    poll = select.poll()
    poll.register(connection, 0)
    return bool(poll.poll(20_000))


def test_an_answer_that_is_read_slowly_is_not_cut(impatient: PlainServer) -> None:
    pause, read = threading.Event(), 0
    with impatient.connect(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as connection:
        began = time.monotonic()
        while data := connection.recv(1 << 20):
            read += len(data)
            if time.monotonic() - began < 4 * SHORT_S:
                pause.wait(SHORT_S / 8)
    assert read > LARGE
    assert time.monotonic() - began > 2 * SHORT_S


# --- how many


def test_silent_connections_make_room_for_those_that_ask() -> None:
    with plain_server(App(), ConnectionLimits(6, 2)) as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect(sent)) for sent in (b"", b"GET / HT") * 20]
        assert server.get("/").status == 200
        assert is_ended(silent[0]), "the longest idle is closed"
        assert len(server.server.server_state.connections) <= 8


def test_while_all_are_busy_health_checks_are_answered_and_others_told_when_to_come_back() -> None:
    app = App()
    with plain_server(app, ConnectionLimits(3, 2)) as server, ExitStack() as stack:
        busy = [stack.enter_context(server.connect(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")) for _ in range(3)]
        until_working(server, 3)
        for path in ("/live", "/ready", "/health", "/metrics"):
            assert server.get(path).status == 200
        refused = server.get("/")
        assert (refused.status, refused.error["code"]) == (503, "too_many_connections")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-request-id"]
        for _ in range(20):
            stack.enter_context(server.connect(b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1"))
        assert server.get("/live").status == 200
        app.go.set()
        busy[0].close()
        until_working(server, 2)
        assert server.get("/").status == 200


def until_working(server: PlainServer, count: int) -> None:
    """Ask until so many requests are in progress; each question takes the server some turns of its loop."""
    deadline = time.monotonic() + 10
    while server.server._table.working != count:
        server.get("/live")
        assert time.monotonic() < deadline
