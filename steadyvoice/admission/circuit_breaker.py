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

from steadyvoice.errors import EngineUnavailable, OutOfMemory, WorkerDied

THRESHOLD = 5  # jobs in a row that failed, and none that went well between them
OPEN_S = 30  # before one is let through again
# A load that fails is not among them: the engine itself refuses at once until the next may be tried. Nor is a model that raises:
# that costs nobody else anything, and one caller's bad file would shut out all.
FAILURES = (OutOfMemory, WorkerDied)


class Breaker:
    """Thread-safe."""

    def __init__(self, threshold: int = THRESHOLD, open_s: float = OPEN_S) -> None:
        self._circuit = SyncCircuitBreakerFactory(threshold, open_s).get_breaker("engine").context
        self._open_s = open_s
        self._probing = False  # the one that was let through has no outcome yet
        self._turn = 0  # of the circuit; a job that was admitted before the last one has nothing to say any more
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

    def admit(self) -> int:
        """As `check`, and the job that follows is the one to decide, if one has to. `watch` or `gave_up` must follow, with what
        this returned."""
        with self._lock:
            self._check()
            if self._circuit.state == "half-opened":
                self._probing = True
                self._turn += 1
            return self._turn

    def gave_up(self, admitted: int) -> None:
        """The job that was admitted never came to the engine."""
        with self._lock:
            if admitted == self._turn:
                self._probing = False

    def watch(self, admitted: int, tickets: Sequence[Future[Any]]) -> None:
        """Learn from a job once all its tickets have an outcome: it failed if one of them did, and else went well if one did.

        Of the one that was let through the first such ticket decides: the others of a long job need not be waited for.
        """
        left, failure, went_well = len(tickets), None, False
        if not tickets:
            self.gave_up(admitted)

        def done(ticket: Future[Any]) -> None:
            nonlocal left, failure, went_well
            error = None if ticket.cancelled() else ticket.exception()
            with self._lock:
                left -= 1
                if isinstance(error, FAILURES):
                    failure = error
                went_well |= error is None and not ticket.cancelled()
                decided = not left or (self._probing and (failure is not None or went_well))
                if not decided or admitted != self._turn:
                    return
                self._probing = False
                if failure is not None:
                    self._circuit.handle_exception(failure)
                    if self._circuit.state == "opened":
                        self._turn += 1
                elif went_well:
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
