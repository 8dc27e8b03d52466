"""Clients that are silent, slow, or do not read, by the hundred, against the real apps."""

from __future__ import annotations

import json
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import psutil
import pytest

from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import clip, wav_bytes
from tests.end_to_end.test_steadiness import metric, until

ROUTE = "/v1/audio/transcriptions"
CROWD = 600
SPEECH = json.dumps({"text": "This sentence is spoken and not listened to. " * 90, "stream": True}).encode()
SPEAK = b"POST /synthesize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
    len(SPEECH),
    SPEECH,
)


def connect(app: RunningApp, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(app.url.rsplit(":", 1)[1])), timeout=60)
    connection.sendall(sent)
    return connection


def transcribe(app: RunningApp) -> httpx.Response:
    return httpx.post(f"{app.url}{ROUTE}", files={"file": ("a.wav", wav_bytes(clip(CLIPS[2])))}, timeout=120)


@pytest.fixture(scope="module")
def small() -> Iterator[RunningApp]:
    """An app with few descriptors. Nothing in these tests waits for its time limits."""
    with running("app_sensevoice.py", open_files=64) as app:
        yield app


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET /live HTTP/1.1\r\nHost: localhost\r\n", b"\r\n\r\n", b"GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n"],
    ids=["silent", "half a header", "garbage", "not read"],
)
def test_hundreds_of_idle_connections_keep_no_one_else_out(small: RunningApp, sent: bytes) -> None:
    written = len(small.log)
    with ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(connect(small)).sendall(sent)
        assert httpx.get(f"{small.url}/live", timeout=30).status_code == 200
        assert transcribe(small).status_code == 200
        assert len(psutil.Process(small.process.pid).net_connections()) < 40
    assert "out of system resource" not in "".join(small.log)
    if sent != b"\r\n\r\n":
        assert len(small.log) - written < 20


def test_few_descriptors_are_told_at_the_start_and_suffice_for_the_page(small: RunningApp) -> None:
    assert sum("64 open files are allowed" in line for line in small.log) == 1
    assert httpx.get(f"{small.url}/", timeout=30).status_code == 200


def test_callers_that_do_not_read_their_stream_keep_a_place_while_it_is_made_and_then_only_a_connection(tts: RunningApp) -> None:
    with ExitStack() as stack:
        deaf = [stack.enter_context(connect(tts, SPEAK)) for _ in range(7)]
        until(lambda: metric(tts, "steadyvoice_requests_in_progress") == 7)
        until(lambda: metric(tts, "steadyvoice_requests_in_progress") == 0)
        assert httpx.post(f"{tts.url}/synthesize", json={"text": "Hello."}, timeout=60).status_code == 200
        audio = bytearray()
        while not audio.endswith(b"\r\n0\r\n\r\n"):
            audio += deaf[0].recv(1 << 20)
        assert audio.startswith(b"HTTP/1.1 200")
        assert len(audio) > 8_000_000  # more than kernels keep for one connection


def test_a_stream_that_is_not_read_is_cut() -> None:
    with running("app_tts.py", PROGRESS_TIMEOUT_S="1") as app, connect(app, SPEAK) as deaf:
        poll = select.poll()
        poll.register(deaf, 0)
        assert poll.poll(60_000), "the connection was not reset"


def test_the_end_comes_in_time_whatever_clients_hold_open() -> None:
    with running("app_tts.py", DRAIN_S="1") as app, ExitStack() as stack:
        for sent in (
            b"",
            b"GET / HTT",
            SPEAK[:-100],
            SPEAK,
            b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            stack.enter_context(connect(app, sent))
        assert httpx.get(f"{app.url}/ready").status_code == 200
        began = time.monotonic()
        app.process.send_signal(signal.SIGTERM)
        assert app.process.wait(30) == 0
        assert time.monotonic() - began < 15
    assert "Traceback" not in "".join(app.log)
