"""How many requests are in flight at once in one app, over the API and the pages together; none is admitted while draining.

A place is acquired before an upload is decoded, so that the memory and CPU of this process are bounded too. Knows nothing of
what the requests want.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from steadyvoice.admission.capacity import Capacity
from steadyvoice.admission.retry_after import RetryAfterSchedule
from steadyvoice.errors import EngineUnavailable, Overloaded

DRAINING_RETRY_S = 10.0  # after which another process may have taken over


class ConcurrencyLimit:
    """`with limit.acquire(caller):` around one request. Thread-safe."""

    def __init__(
        self,
        capacity: Capacity,
        retry_after: Callable[[], float],
        on_change: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            capacity: how many requests may be in flight.
            retry_after: gives the seconds after which the engine should have done what it has now.
            on_change: is called with the number of requests in flight, whenever it changes.
            clock: in seconds, monotonic.
        """
        self.capacity = capacity
        self._on_change = on_change
        self._schedule = RetryAfterSchedule(capacity.total, retry_after, clock)
        self._in_flight = 0
        self._draining = False
        self._changed = threading.Condition(threading.RLock())

    @contextmanager
    def acquire(self, caller: str) -> Iterator[None]:
        """Hold a place while the block runs. A refused `caller` is given a time of its own to come back.

        Raises:
            Overloaded: the limit is reached.
            EngineUnavailable: the server is draining.
        """
        with self._changed:
            self.check(caller)
            if not self._in_flight:
                self._schedule.reset()
            self._in_flight += 1
            self._on_change(self._in_flight)
        try:
            yield
        finally:
            with self._changed:
                self._schedule.note_release()
                self._in_flight -= 1
                self._on_change(self._in_flight)
                self._changed.notify_all()

    def check(self, caller: str) -> None:
        """Raise as `acquire` would, without acquiring."""
        self.check_draining()
        with self._changed:
            if self._in_flight >= self.capacity.total:
                raise Overloaded(
                    f"{self._in_flight} requests are in progress and that is the limit "
                    f"({self.capacity.concurrency} at work, {self.capacity.queue_size} waiting)",
                    retry_after_s=self._schedule.wait_s(caller),
                )

    def check_draining(self) -> None:
        """Raise EngineUnavailable if the server is draining."""
        if self._draining:
            raise EngineUnavailable("the server is draining before it stops", retry_after_s=DRAINING_RETRY_S)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    @property
    def draining(self) -> bool:
        return self._draining

    def drain(self) -> None:
        """Admit no further request."""
        self._draining = True

    def wait_idle(self, timeout_s: float) -> bool:
        """Block until nothing is in flight; False if `timeout_s` passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight == 0, timeout_s)
