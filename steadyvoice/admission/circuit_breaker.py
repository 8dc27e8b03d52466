"""Circuit breaker of the engine: while it keeps failing, requests are refused at once, and from time to time one job probes it.

It is asked after the caches, since a cached answer needs no engine. Errors that come from one caller's input, and cancelled
requests, say nothing about the engine and are not counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from steadyvoice.errors import EngineUnavailable, OutOfMemory, WorkerDied

THRESHOLD = 5  # failed jobs in a row, without a success between them
OPEN_S = 30.0  # how long the circuit stays open before a probe is admitted
PROBE_RETRY_S = 5.0  # Retry-After while a probe is in flight
# A failed load is not counted: the engine itself refuses until the next attempt is due. Nor is a model that raises on one item:
# other callers' items are not affected, and one bad file must not close the service for all.
FAILURES = (OutOfMemory, WorkerDied)


class CircuitBreaker:
    """Thread-safe. `closed`: jobs are admitted; `opened`: refused; `half-opened`: the next job is the probe that decides."""

    def __init__(self, threshold: int = THRESHOLD, open_s: float = OPEN_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._threshold = threshold
        self._open_s = open_s
        self._now = clock
        self._failures = 0  # in a row
        self._opened_at: float | None = None  # None: closed
        self._probing = False  # a probe is in flight
        self._generation = 0  # outcomes of jobs that were admitted in an earlier generation are ignored
        self._lock = threading.Lock()

    @property
    def state(self) -> str:
        """closed, opened or half-opened."""
        with self._lock:
            return self._state()

    def check(self) -> None:
        """Raise EngineUnavailable, with `retry_after_s`, if a job would be refused now. Changes nothing."""
        with self._lock:
            self._check()

    def admit(self) -> int:
        """Admit one job, as the probe if the circuit is half-opened. Raises as `check`.

        Returns a token for `watch` or `abandon`, one of which must follow.
        """
        with self._lock:
            self._check()
            if self._state() == "half-opened":
                self._probing = True
                self._generation += 1
            return self._generation

    def abandon(self, token: int) -> None:
        """The admitted job was not submitted."""
        with self._lock:
            if token == self._generation:
                self._probing = False

    def watch(self, token: int, tickets: Sequence[Future[Any]]) -> None:
        """Count the job once all tickets are done: as failed if one failed, else as a success if one succeeded.

        A probe is counted by its first ticket that failed or succeeded, so that a long job decides early.
        """
        left, failed, succeeded = len(tickets), False, False
        if not tickets:
            self.abandon(token)

        def done(ticket: Future[Any]) -> None:
            nonlocal left, failed, succeeded
            error = None if ticket.cancelled() else ticket.exception()
            with self._lock:
                left -= 1
                failed |= isinstance(error, FAILURES)
                succeeded |= error is None and not ticket.cancelled()
                decided = not left or (self._probing and (failed or succeeded))
                if decided and token == self._generation:
                    self._count(failed, succeeded)

        for ticket in tickets:
            ticket.add_done_callback(done)

    def _count(self, failed: bool, succeeded: bool) -> None:
        self._probing = False
        if failed:
            self._failures += 1
            if self._opened_at is not None or self._failures >= self._threshold:
                self._opened_at = self._now()
                self._generation += 1
        elif succeeded:
            self._failures, self._opened_at = 0, None

    def _state(self) -> str:
        if self._opened_at is None:
            return "closed"
        return "opened" if self._now() < self._opened_at + self._open_s else "half-opened"

    def _check(self) -> None:
        if self._state() == "opened":
            assert self._opened_at is not None
            left = max(1.0, self._opened_at + self._open_s - self._now())
            raise EngineUnavailable("the engine keeps failing; it will be tried again soon", retry_after_s=left)
        if self._probing:
            raise EngineUnavailable("the engine kept failing, and is being tried", retry_after_s=PROBE_RETRY_S)
