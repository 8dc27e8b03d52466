"""The front door: how many requests are in the house, and nobody in while it is closing.

A place is taken before an upload is decoded, so that what a request costs on this side of the engine is bounded too. The
page and the API go through the same door. Thread-safe; knows nothing of what the requests want.

Whoever is refused is told when to come back, each another moment: the next place that should fall free, by the rate at which
people leave. If all were sent away for the same second, all but a few would be refused again. `1 / ROOM` of the places are
promised, the others to nobody: HTTP knows whole seconds only, so they come in clumps, and others come too. Who asks again before
its time stands in a line of its own, so that one impatient caller makes nobody else wait. Beyond `LONGEST_WAIT_S` everybody is
told just that, and it is no longer a promise.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from steadyvoice.admission.capacity import Capacity
from steadyvoice.errors import LONGEST_WAIT_S, EngineUnavailable, Overloaded

LEAVES_KEPT = 64  # of which the pace is taken
ROOM = 1.25  # time between two promised places, in times between two that fall free
PROMISES_KEPT = 4_096  # of different callers


class Door:
    """`with door.enter(caller):` around one request."""

    def __init__(
        self,
        capacity: Capacity,
        retry_after: Callable[[], float],
        on_change: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`retry_after` gives the seconds after which the engine should have done what it has now."""
        self.capacity = capacity
        self._retry_after = retry_after
        self._on_change = on_change
        self._now = clock
        self._left: deque[float] = deque(maxlen=LEAVES_KEPT)  # when somebody left, since the house was last empty
        self._line = 0.0  # the last moment that was told to somebody who came for the first time
        self._told: dict[str, float] = {}  # each caller's last moment
        self._inside = 0
        self._closing = False
        self._changed = threading.Condition(threading.RLock())

    @contextmanager
    def enter(self, caller: str) -> Iterator[None]:
        """Hold a place while the block runs. `caller` is who is told to come back, where there is none.

        Raises:
            Overloaded: as many are inside as may be.
            EngineUnavailable: the server is draining.
        """
        with self._changed:
            self.check(caller)
            if not self._inside:  # there is room for all who were told to come later
                self._left.clear()
                self._line = 0.0
                self._told.clear()
            self._inside += 1
            self._on_change(self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._left.append(self._now())
                self._inside -= 1
                self._on_change(self._inside)
                self._changed.notify_all()

    def check(self, caller: str) -> None:
        """Raise as `enter` would, without entering."""
        if self._closing:
            raise EngineUnavailable("the server is draining before it stops", retry_after_s=10)
        if self._inside >= self.capacity.total:
            raise Overloaded(
                f"{self._inside} requests are in progress and that is the limit "
                f"({self.capacity.concurrency} at work, {self.capacity.queue_size} waiting)",
                retry_after_s=self._next_place_s(caller),
            )

    def _next_place_s(self, caller: str) -> float:
        """Seconds until a place should be free that nobody else was told of, or only one who asks before its time."""
        with self._changed:
            now, soonest = self._now(), self._retry_after()
            between_s = soonest / self.capacity.total
            if len(self._left) > 1:
                between_s = (self._left[-1] - self._left[0]) / (len(self._left) - 1)
            told = self._told.get(caller, 0.0)
            if told > now:
                moment = told + ROOM * between_s
            else:
                moment = self._line = max(now + soonest, self._line + ROOM * between_s)
            if len(self._told) >= PROMISES_KEPT:
                self._told = {other: due for other, due in self._told.items() if due > now}
            if len(self._told) < PROMISES_KEPT or caller in self._told:
                self._told[caller] = min(moment, now + LONGEST_WAIT_S)
            return min(moment, now + LONGEST_WAIT_S) - now

    @property
    def inside(self) -> int:
        return self._inside

    @property
    def closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Let nobody in any more."""
        self._closing = True

    def wait_empty(self, timeout_s: float) -> bool:
        """Block until everybody has left; False when the time is up."""
        with self._changed:
            return self._changed.wait_for(lambda: self._inside == 0, timeout_s)
