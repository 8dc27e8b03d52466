"""The circuit breaker between the routes and an engine that keeps failing: refuse at once, and try again now and then.

`purgatory` keeps the circuit's state; here is only what counts as a failure. What the engine answers to one caller's bad input,
and callers who leave, say nothing about the engine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from purgatory import SyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from steadyvoice.errors import EngineUnavailable, ItemFailed, OutOfMemory, WorkerDied

THRESHOLD = 5  # jobs in a row that failed, and none that went well between them
OPEN_S = 30  # before one is let through again
FAILURES = (EngineUnavailable, ItemFailed, OutOfMemory, WorkerDied)


class Breaker:
    """Thread-safe."""

    def __init__(self, threshold: int = THRESHOLD, open_s: float = OPEN_S) -> None:
        self._circuit = SyncCircuitBreakerFactory(threshold, open_s).get_breaker("engine").context
        self._open_s = open_s
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """closed (all is well), opened (everybody is refused) or half-opened (the next outcome decides)."""
        with self._lock:
            return str(self._circuit.state)

    def admit(self) -> None:
        """Raises EngineUnavailable, with the seconds after which it is worth asking again."""
        with self._lock:
            try:
                self._circuit.handle_new_request()
            except OpenedState as opened:
                left = max(1.0, opened.opened_at + self._open_s - time.time())
                raise EngineUnavailable("the engine keeps failing; it will be tried again soon", retry_after_s=left) from None
            finally:
                self._circuit.messages.clear()  # purgatory's events, for stores that we do not use

    def watch(self, tickets: Sequence[Future[Any]]) -> None:
        """Learn from the tickets of one job: its first failure counts, its others do not; so does each success."""
        failed = threading.Event()

        def done(ticket: Future[Any]) -> None:
            error = None if ticket.cancelled() else ticket.exception()
            with self._lock:
                if isinstance(error, FAILURES):
                    if not failed.is_set():
                        failed.set()
                        self._circuit.handle_exception(error)
                elif error is None and not ticket.cancelled():
                    self._circuit.handle_end_request()
                self._circuit.messages.clear()

        for ticket in tickets:
            ticket.add_done_callback(done)
