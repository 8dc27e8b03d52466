"""Streamed responses, and cancellation when the client disconnects. Knows nothing of audio or text."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steadyvoice.api.response_spool import Spool
from steadyvoice.errors import Cancelled, SteadyvoiceError

log = logging.getLogger(__name__)

T = TypeVar("T")


def server_sent(body: Mapping[str, Any]) -> bytes:
    """One server-sent event without a name, as OpenAI's SDK reads them."""
    return b"data: " + json.dumps(body, ensure_ascii=False).encode() + b"\n\n"


async def cancel_on_disconnect(request: Request, work: Awaitable[T]) -> T:
    """Await `work`, and cancel it when the client disconnects. The request's body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise Cancelled("the caller went away")
    finally:
        for left in (task, gone):
            left.cancel()
        with suppress(asyncio.CancelledError, SteadyvoiceError):
            await task


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class SpooledResponse(StreamingResponse):
    """A streamed response whose work does not wait for its client to read.

    `hold` is what the work needs: its place in the concurrency limit, an upload. It is closed as soon as the work is done, while
    bytes may still be sent. A generator could not do this: when the client disconnects before the first byte, it never starts and
    its `finally` never runs. A disconnect cancels the work.
    """

    def __init__(self, content: AsyncIterator[bytes], hold: AsyncExitStack, timeout_s: float, **options: Any) -> None:
        super().__init__(content, **options)
        self._content = content
        self._hold = hold
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        spool = Spool()
        work = asyncio.ensure_future(self._work(spool))
        sent = asyncio.ensure_future(self._send(spool, work, send))
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            async with asyncio.timeout(self._timeout_s):
                await asyncio.wait({sent, gone}, return_when=asyncio.FIRST_COMPLETED)
            if sent.done():
                sent.result()
        except TimeoutError:
            # Half an answer must not look like a whole one: the server cuts a connection whose last chunk never came.
            log.warning("a streamed answer was not read within %g s and is cut", self._timeout_s)
        finally:
            for task in (sent, gone, work):
                task.cancel()
            await asyncio.gather(sent, gone, work, return_exceptions=True)
            spool.close()

    async def _work(self, spool: Spool) -> bool:
        """Fill the spool. False when an error of ours ended it."""
        try:
            async with self._hold:
                async for data in self._content:
                    await spool.write(data)
        except SteadyvoiceError as error:
            log.warning("a streamed answer failed in the middle and is cut: %s", error.code)
            return False
        finally:
            spool.end()
        return True

    async def _send(self, spool: Spool, work: asyncio.Future[bool], send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while data := await spool.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if await work:
            await send({"type": "http.response.body"})
