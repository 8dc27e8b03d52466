"""How many connections there may be, and which one is closed when another needs room. Knows no socket and no HTTP.

Every connection takes a file descriptor, and a request at work takes another for its upload or its answer. The limits are derived
from the descriptors that the process may open, so that they are counted before they run out.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

import psutil

log = logging.getLogger(__name__)

MAX_CONNECTIONS = 1_024
RESERVE = 32  # of them, for health checks while every other connection has a request in progress
DESCRIPTORS_PER_CONNECTION = 2
HEADROOM = 24  # descriptors for the worker's pipes, temporary files and what libraries open for a moment
MIN_CONNECTIONS = 4
WANTED_DESCRIPTORS = 4_096


@dataclass(frozen=True)
class ConnectionLimits:
    """How many connections may have a request in progress, and how many more there may be."""

    working: int
    reserve: int

    @property
    def total(self) -> int:
        return self.working + self.reserve


class Closable(Protocol):
    """What the table asks of a connection."""

    @property
    def is_sending(self) -> bool: ...

    def cut(self) -> None: ...


class ConnectionTable:
    """All connections of a server by what they do. Used on the event loop only.

    A connection is *idle* while it has no request in progress, *minor* while a health check or a refusal is in progress, and else
    *working*.
    """

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.opening = 0  # accepted, and not yet in the table
        # Dictionaries keep the order: the first has been in its state for the longest time.
        self._idle: dict[Closable, None] = {}
        self._minor: dict[Closable, None] = {}
        self._working: dict[Closable, None] = {}

    def __len__(self) -> int:
        return self.opening + len(self._idle) + len(self._minor) + len(self._working)

    def __iter__(self) -> Iterator[Closable]:
        return chain(self._idle, self._minor, self._working)

    @property
    def working(self) -> int:
        return len(self._working)

    def opened(self, connection: Closable) -> None:
        """One of those that were opening is there."""
        self.make_room()
        self.opening -= 1
        self._idle[connection] = None

    def idle(self, connection: Closable) -> None:
        """The connection's request is over. A connection that is idle already keeps its place."""
        if connection not in self._idle:
            self.remove(connection)
            self._idle[connection] = None

    def begin(self, connection: Closable, health_check: bool) -> bool:
        """A request begins. False: it must be refused, since too many are in progress and it is no health check."""
        self.remove(connection)
        served = health_check or len(self._working) < self.limits.working
        (self._minor if health_check or not served else self._working)[connection] = None
        return served

    def remove(self, connection: Closable) -> None:
        for group in (self._idle, self._minor, self._working):
            group.pop(connection, None)

    def make_room(self) -> None:
        """Close connections while there are more than may be: the longest idle first, then the oldest minor ones."""
        while len(self) > self.limits.total and (others := self._idle or self._minor):
            oldest = next(iter(others))
            self.remove(oldest)
            oldest.cut()


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files as far as it is of use and allowed. Returns the limit that holds then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(WANTED_DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return WANTED_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def limits_for(descriptors: int, in_use: int) -> ConnectionLimits:
    """What `descriptors`, of which `in_use` are open before the first connection, leave room for."""
    possible = (descriptors - in_use - HEADROOM) // DESCRIPTORS_PER_CONNECTION
    total = max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, possible))
    reserve = max(2, min(RESERVE, total // 4))
    return ConnectionLimits(total - reserve, reserve)


def connection_limits() -> ConnectionLimits:
    """The limits for this process. Called when all that lives as long as the process is open."""
    descriptors = raise_descriptor_limit()
    limits = limits_for(descriptors, psutil.Process().num_fds())
    if limits.total < MAX_CONNECTIONS:
        log.warning("%d open files are allowed, which is enough for %d connections", descriptors, limits.total)
    return limits
