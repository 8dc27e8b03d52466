"""Streamed answers: what they hold, for how long, and how they end. The other side is played by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import pytest
from starlette.types import Message

from steadyvoice.api.streaming import SpooledResponse
from steadyvoice.errors import ItemFailed

SCOPE = {"type": "http", "method": "GET", "path": "/"}
TIMEOUT_S = 20


class Caller:
    """Reads only what `read` allows, and hangs up when told to."""

    def __init__(self) -> None:
        self.read, self.gone = asyncio.Event(), asyncio.Event()
        self.got: list[Message] = []

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.read.wait()
        self.got.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)

    @property
    def is_whole(self) -> bool:
        return self.got[-1:] == [{"type": "http.response.body"}]


class Work:
    """Yields `pieces`, then raises `error` if there is one; holds a place until it is over."""

    def __init__(self, pieces: int = 3, error: Exception | None = None, endless: bool = False) -> None:
        self._pieces, self._error, self._endless = pieces, error, endless
        self.released = asyncio.Event()
        self.cancelled = False

    def response(self, timeout_s: float = TIMEOUT_S) -> SpooledResponse:
        hold = AsyncExitStack()
        hold.callback(self.released.set)
        return SpooledResponse(self._content(), hold, timeout_s, media_type="audio/mpeg")

    async def _content(self) -> AsyncIterator[bytes]:
        try:
            for number in range(self._pieces):
                yield b"%d" % number
            if self._error is not None:
                raise self._error
            if self._endless:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, TIMEOUT_S))


def test_the_place_is_free_when_the_work_is_done_though_nothing_was_read() -> None:
    async def scenario() -> None:
        caller, work = Caller(), Work()
        answering = asyncio.ensure_future(work.response()(SCOPE, caller.receive, caller.send))
        await work.released.wait()
        assert caller.got == []
        caller.read.set()
        await answering
        assert caller.body == b"012"
        assert caller.is_whole
        assert not work.cancelled

    run(scenario())


def test_a_caller_that_hangs_up_ends_the_work() -> None:
    async def scenario() -> None:
        caller, work = Caller(), Work(endless=True)
        caller.read.set()
        answering = asyncio.ensure_future(work.response()(SCOPE, caller.receive, caller.send))
        while caller.body != b"012":
            await asyncio.sleep(0)
        caller.gone.set()
        await answering
        assert work.cancelled
        assert work.released.is_set()
        assert not caller.is_whole

    run(scenario())


def test_an_answer_that_is_not_read_within_the_time_of_a_request_ends_and_is_no_whole_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        caller, work = Caller(), Work()
        await work.response(timeout_s=0.05)(SCOPE, caller.receive, caller.send)
        assert work.released.is_set()
        assert not caller.is_whole

    run(scenario())
    assert "was not read within 0.05 s" in caplog.text


def test_an_error_of_the_work_cuts_the_answer_after_what_was_made(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        caller, work = Caller(), Work(error=ItemFailed("it did not work"))
        answering = asyncio.ensure_future(work.response()(SCOPE, caller.receive, caller.send))
        await work.released.wait()
        caller.read.set()
        await answering
        assert caller.body == b"012"
        assert not caller.is_whole

    run(scenario())
    assert "item_failed" in caplog.text


def test_a_bug_of_the_work_is_not_swallowed() -> None:
    async def scenario() -> None:
        caller, work = Caller(), Work(error=ZeroDivisionError())
        caller.read.set()
        with pytest.raises(ZeroDivisionError):
            await work.response()(SCOPE, caller.receive, caller.send)
        assert work.released.is_set()

    run(scenario())


def test_a_server_that_stops_ends_the_work() -> None:
    async def scenario() -> None:
        caller, work = Caller(), Work(endless=True)
        answering = asyncio.ensure_future(work.response()(SCOPE, caller.receive, caller.send))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert work.released.is_set()

    run(scenario())
