"""The front door: how many requests are in the house, and nobody in while it is closing.

A place is taken before an upload is decoded, so that what a request costs on this side of the engine is bounded too. The
page and the API go through the same door. Thread-safe; knows nothing of what the requests want.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from steadyvoice.errors import EngineUnavailable, Overloaded
from steadyvoice.serving.hardware import Admission


class Door:
    """`with door.enter():` around one request."""

    def __init__(self, admission: Admission, retry_after: Callable[[], float], on_change: Callable[[int], None]) -> None:
        self.admission = admission
        self._retry_after = retry_after
        self._on_change = on_change
        self._inside = 0
        self._closing = False
        self._changed = threading.Condition()

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Hold a place while the block runs.

        Raises:
            Overloaded: as many are inside as may be.
            EngineUnavailable: the server is draining.
        """
        with self._changed:
            self.check()
            self._inside += 1
            self._on_change(self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._on_change(self._inside)
                self._changed.notify_all()

    def check(self) -> None:
        """Raise as `enter` would, without entering."""
        if self._closing:
            raise EngineUnavailable("the server is draining before it stops", retry_after_s=10)
        if self._inside >= self.admission.capacity:
            raise Overloaded(
                f"{self._inside} requests are in progress and that is the limit "
                f"({self.admission.concurrency} at work, {self.admission.queue_size} waiting)",
                retry_after_s=self._retry_after(),
            )

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
