"""Admission of requests, made once per app: every route, page and Gradio endpoint that does work calls `admitted`.

    with admission.admitted(request) as caller:     hold a place while the work runs
        ...

A route that takes a file calls `check` before it reads the body and `receiving` while it does; `api.uploads.admitted_form` does
both. The circuit breaker belongs to admission too; the service asks it after its caches. Knows nothing of what requests want.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from steadyvoice.admission.capacity import Capacity
from steadyvoice.admission.circuit_breaker import CircuitBreaker
from steadyvoice.admission.concurrency_limit import ConcurrencyLimit
from steadyvoice.admission.identity import caller_of
from steadyvoice.admission.upload_slots import UploadSlots

MORE_UPLOADS = 2  # large uploads that may be received in addition to as many as may be in flight


class Admission:
    """The limits of one app. Requests are FastAPI's or Gradio's."""

    def __init__(self, capacity: Capacity, retry_after: Callable[[], float], on_change: Callable[[int], None]) -> None:
        """See `ConcurrencyLimit`."""
        self.capacity = capacity
        self.limit = ConcurrencyLimit(capacity, retry_after, on_change)
        self.breaker = CircuitBreaker()
        self._upload_slots = UploadSlots(capacity.total + MORE_UPLOADS)

    @contextmanager
    def admitted(self, request: Any) -> Iterator[str]:
        """Hold a place while the block runs, and give the caller.

        Raises:
            Overloaded: the concurrency limit is reached.
            EngineUnavailable: the server is draining.
        """
        caller = caller_of(request)
        with self.limit.acquire(caller):
            yield caller

    def check(self, request: Any) -> None:
        """Raise as `admitted` would: before a large body is read in vain."""
        self.limit.check(caller_of(request))

    @contextmanager
    def receiving(self, expected_bytes: int | None) -> Iterator[None]:
        """Hold an upload slot while a body is received; None: its size is not known.

        Raises:
            Overloaded: all slots are taken.
            EngineUnavailable: the server is draining.
        """
        self.limit.check_draining()
        with self._upload_slots.slot(expected_bytes):
            yield
