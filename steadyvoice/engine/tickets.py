"""What callers hand to the engine and hold in return, and the ledger of unresolved tickets. Pure bookkeeping.

Knows nothing of workers or scheduling.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from typing import TypeVar

from steadyvoice import errors
from steadyvoice.engine.scheduler import Work
from steadyvoice.protocol import ItemError, Payload

T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """One payload and its length in seconds of audio. Tasks of the same affinity are cheaper one after the other."""

    payload: Payload
    length: float
    affinity: str = ""


@dataclass(frozen=True)
class Answer:
    """What a ticket resolves to."""

    payload: Payload
    queue_s: float  # from submit until its batch went to the device
    inference_s: float  # spent by the worker on it, or on its batch where the engine computes the items together


Ticket = Future[Answer]


@dataclass(frozen=True)
class JobHandle:
    """What `submit` returns: tickets in the order of the tasks."""

    id: int
    tickets: tuple[Ticket, ...]


@dataclass(slots=True)
class Pending:
    """One unresolved ticket, and when its work was submitted and last sent (monotonic seconds)."""

    ticket: Ticket
    payload: Payload
    submitted: float
    dispatched: float = 0.0

    def settle(self, outcome: Answer | Exception) -> None:
        """Resolve the ticket, which its caller may be cancelling at this very moment."""
        settle(self.ticket, outcome)

    def abandon(self, error: errors.Cancelled) -> None:
        """Cancel the ticket and wake its waiters; one whose work is on the device fails with `error`."""
        if self.ticket.cancel():
            self.ticket.set_running_or_notify_cancel()  # only this wakes concurrent.futures.wait
        else:
            self.settle(error)


class Ledger:
    """Every unresolved ticket, by work and by job. The caller that takes one out must settle it: no other can.

    Not thread-safe: the engine's lock guards it.
    """

    def __init__(self) -> None:
        self._pending: dict[int, Pending] = {}
        self._jobs: dict[int, list[int]] = {}  # job -> its unresolved works

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, works: Sequence[Work], tasks: Sequence[Task], now: float) -> tuple[Ticket, ...]:
        """Create one ticket per work of one job."""
        tickets = []
        for work, task in zip(works, tasks, strict=True):
            ticket = Ticket()
            self._pending[work.id] = Pending(ticket, task.payload, now)
            self._jobs.setdefault(work.job, []).append(work.id)
            tickets.append(ticket)
        return tuple(tickets)

    def has(self, work: Work) -> bool:
        return work.id in self._pending

    def get(self, work: Work) -> Pending:
        return self._pending[work.id]

    def jobs(self) -> list[int]:
        return list(self._jobs)

    def take(self, work: Work) -> Pending | None:
        """None if it was taken before: cancelled or expired while it ran."""
        works = self._jobs.get(work.job)
        if works is not None and work.id in works:
            works.remove(work.id)
            if not works:
                del self._jobs[work.job]
        return self._pending.pop(work.id, None)

    def take_job(self, job_id: int) -> list[Pending]:
        """All unresolved tickets of a job."""
        return [self._pending.pop(work_id) for work_id in self._jobs.pop(job_id, [])]


def settle(future: Future[T], outcome: T | BaseException) -> None:
    """Resolve a future that its holder may have cancelled."""
    try:
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
    except InvalidStateError:
        pass  # cancelled: no caller waits for it


def item_error(error: ItemError, retry_after_s: float) -> errors.SteadyvoiceError:
    """What the worker says of one item -> what its caller gets."""
    if error.kind == "oom":
        return errors.OutOfMemory(error.message, retry_after_s=retry_after_s)
    return (errors.InvalidInput if error.kind == "invalid" else errors.ItemFailed)(error.message)
