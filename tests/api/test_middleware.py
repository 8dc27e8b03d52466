from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from starlette.types import Message, Receive, Scope, Send

from steadyvoice.api.middleware import MIN_BYTES_PER_SECOND, BodyProgress
from steadyvoice.errors import BodyTimeout

SCOPE: Scope = {"type": "http"}


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass


async def ignore(_: Message) -> None:
    pass


def body(parts: Sequence[bytes], ends: bool) -> Receive:
    """The parts at once; then the end, or nothing any more."""
    left = list(parts)

    async def receive() -> Message:
        if left:
            data = left.pop(0)
            return {"type": "http.request", "body": data, "more_body": bool(left) or not ends}
        await asyncio.Event().wait()
        raise AssertionError

    return receive


def test_a_body_that_stops_arriving_is_given_up() -> None:
    with pytest.raises(BodyTimeout, match=r"0\.05 s"):
        asyncio.run(BodyProgress(read_all, 0.05)(SCOPE, body([b"x"], ends=False), ignore))


def test_a_body_that_never_begins_is_given_up() -> None:
    with pytest.raises(BodyTimeout):
        asyncio.run(BodyProgress(read_all, 0.05)(SCOPE, body([], ends=False), ignore))


def test_a_body_that_comes_in_drops_is_given_up() -> None:
    async def drip() -> Message:
        await asyncio.get_running_loop().run_in_executor(None, lambda: None)
        return {"type": "http.request", "body": b"", "more_body": True}

    with pytest.raises(BodyTimeout, match=f"{MIN_BYTES_PER_SECOND} bytes"):
        asyncio.run(BodyProgress(read_all, 0.05)(SCOPE, drip, ignore))


def test_the_time_that_the_app_takes_between_two_parts_is_not_the_clients() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(3):
            await receive()
            await asyncio.wait({asyncio.ensure_future(asyncio.Event().wait())}, timeout=0.06)

    asyncio.run(BodyProgress(app, 0.05)(SCOPE, body([b"x", b"y", b"z"], ends=True), ignore))


def test_after_the_body_a_client_may_wait_for_its_answer_as_long_as_it_takes() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await read_all(scope, receive, send)
        waiting = asyncio.ensure_future(receive())
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        waiting.cancel()

    asyncio.run(BodyProgress(app, 0.05)(SCOPE, body([b"x"], ends=True), ignore))
