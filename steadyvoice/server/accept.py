"""Accepting connections, as far as there are file descriptors. Knows no HTTP.

asyncio's own server accepts a whole backlog before the first connection is counted. When descriptors run out it logs an error for
each attempt, up to the length of the backlog at a time, and schedules another round for each.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable

from steadyvoice.server.connection_limits import ConnectionTable

log = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 8  # before the event loop turns and the table knows of them
RETRY_S = 0.5
SAID_EVERY_S = 60.0
OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class Acceptor:
    """Makes a protocol for each connection at `listener`, which tells the table when it is opened.

    Has the methods that uvicorn calls of `asyncio.Server`.
    """

    def __init__(self, listener: socket.socket, table: ConnectionTable, make_protocol: Callable[[], asyncio.Protocol]) -> None:
        """Begins to accept. Called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._listener, self._table, self._make_protocol = listener, table, make_protocol
        self._opening: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None
        self._said = -SAID_EVERY_S
        listener.setblocking(False)
        self._resume()

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()

    async def wait_closed(self) -> None:
        """Until no accepted connection is without its protocol."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            if len(self._table) >= self._table.limits.total + ACCEPTED_AT_ONCE:
                return  # closed connections give their descriptors back in the next turn of the loop
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in OUT_OF_RESOURCES:
                    raise
                self._pause(error)
                return
            accepted.setblocking(False)
            self._table.opening += 1
            self._table.make_room()
            task = self._loop.create_task(self._open(accepted))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make_protocol, accepted)
        except OSError:  # the caller has gone
            accepted.close()
            self._table.opening -= 1

    def _pause(self, error: OSError) -> None:
        """The listener stays readable, so that without a pause the loop would do nothing else."""
        self._loop.remove_reader(self._listener)
        self._retry = self._loop.call_later(RETRY_S, self._resume)
        if self._loop.time() - self._said >= SAID_EVERY_S:
            self._said = self._loop.time()
            log.warning("no connection can be accepted at present: %s", error.strerror)
