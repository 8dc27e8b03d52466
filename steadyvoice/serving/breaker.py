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
# A load that fails is not among them: the engine itself refuses at once until the next may be tried.
FAILURES = (ItemFailed, OutOfMemory, WorkerDied)


class Breaker:
    """Thread-safe."""

    def __init__(self, threshold: int = THRESHOLD, open_s: float = OPEN_S) -> None:
        self._circuit = SyncCircuitBreakerFactory(threshold, open_s).get_breaker("engine").context
        self._open_s = open_s
        self._probing = False  # the one that was let through has no outcome yet
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """closed (all is well), opened (everybody is refused) or half-opened (the next outcome decides)."""
        with self._lock:
            return str(self._circuit.state)

    def check(self) -> None:
        """Before anything is done for a request. Raises EngineUnavailable, with the seconds after which to ask again."""
        with self._lock:
            self._check()

    def admit(self) -> None:
        """As `check`, and the job that follows is the one to decide, if one has to. `watch` or `gave_up` must follow."""
        with self._lock:
            self._check()
            self._probing = self._circuit.state == "half-opened"

    def gave_up(self) -> None:
        """The job that was admitted never came to the engine."""
        with self._lock:
            self._probing = False

    def watch(self, tickets: Sequence[Future[Any]]) -> None:
        """Learn from the tickets of one job: its first failure counts, its others do not; so does each success."""
        failed, left = threading.Event(), len(tickets)
        if not tickets:
            self.gave_up()

        def done(ticket: Future[Any]) -> None:
            nonlocal left
            error = None if ticket.cancelled() else ticket.exception()
            with self._lock:
                left -= 1
                if not left or error is not None:
                    self._probing = False
                if isinstance(error, FAILURES):
                    if not failed.is_set():
                        failed.set()
                        self._circuit.handle_exception(error)
                elif error is None and not ticket.cancelled():
                    self._circuit.handle_end_request()
                self._circuit.messages.clear()

        for ticket in tickets:
            ticket.add_done_callback(done)

    def _check(self) -> None:
        try:
            self._circuit.handle_new_request()
        except OpenedState as opened:
            opened.__traceback__ = None  # it is one object for all, and would hold on to every caller's frames
            left = max(1.0, opened.opened_at + self._open_s - time.time())
            raise EngineUnavailable("the engine keeps failing; it will be tried again soon", retry_after_s=left) from None
        finally:
            self._circuit.messages.clear()  # purgatory's events, for stores that we do not use
        if self._probing:
            raise EngineUnavailable("the engine kept failing, and is being tried", retry_after_s=5)
