"""The jobs of one engine, from their admission until every ticket is resolved.

Scheduler, ledger and quarantine change together, under one lock. Thread-safe. Knows nothing of workers: the dispatcher takes
batches from here and reports what became of them.
"""

from __future__ import annotations

import copy
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from steadyvoice import errors
from steadyvoice.engine.quarantine import Quarantine
from steadyvoice.engine.scheduler import Limits, Scheduler, ServiceClass, Work
from steadyvoice.engine.tickets import JobHandle, Ledger, Pending, Task, Ticket
from steadyvoice.protocol import Payload
from steadyvoice.protocol.model_info import Failure


@dataclass(slots=True)
class RunningBatch:
    """The batch on the device. `works` leaves out what was cancelled between planning and sending."""

    id: int
    works: tuple[Work, ...]
    unanswered: set[int]  # indices into `works`
    since: float  # of the last progress
    last_try: bool = False  # if memory runs out, it has failed for good

    @property
    def padded_s(self) -> float:
        return len(self.works) * max(work.length for work in self.works)

    @property
    def remaining(self) -> tuple[Work, ...]:
        return tuple(self.works[index] for index in sorted(self.unanswered))


class Jobs:
    """See the module's docstring."""

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float],
        wake: Callable[[], None],
        refusal: Callable[[], errors.SteadyvoiceError | None],
    ) -> None:
        """`refusal`: why no job is admitted at the moment, or None. `wake`: called when the dispatcher has something to do."""
        self.lock = threading.Lock()  # guards scheduler, ledger and quarantine
        self.scheduler = Scheduler(limits)
        self.ledger = Ledger()
        self.cancelled: deque[int] = deque()  # jobs of which a caller cancelled a ticket
        self._quarantine = Quarantine()
        self._ids = itertools.count(1)
        self._now = clock
        self._wake = wake
        self._refusal = refusal

    # --- for callers, from any thread

    def submit(self, tasks: Sequence[Task], *, caller: str, service_class: ServiceClass, timeout_s: float) -> JobHandle:
        """As `Dispatcher.submit`, but an Overloaded does not say yet when to come again."""
        now = self._now()
        job_id = next(self._ids)
        if not tasks:
            return JobHandle(job_id, ())
        with self.lock:
            if refusal := self._refusal():
                raise refusal
            for task in tasks:
                if left := self._quarantine.seconds_left(task.payload, now):
                    raise errors.Quarantined(f"this input ended the engine twice; it is refused for {left / 60:.0f} more minutes")
            works = [Work(next(self._ids), job_id, task.length, task.affinity) for task in tasks]
            self.scheduler.submit(job_id, works, now, caller=caller, service_class=service_class, deadline=now + timeout_s)
            tickets = self.ledger.add(works, tasks, now)
        for ticket in tickets:
            ticket.add_done_callback(lambda ticket: self._note_cancelled(ticket, job_id))
        self._wake()
        return JobHandle(job_id, tickets)

    def cancel(self, job: JobHandle) -> None:
        """Drop the waiting works of a job; its tickets become cancelled, or fail with `Cancelled` if they are on the device."""
        with self.lock:
            self.scheduler.cancel(job.id)
            dropped = self.ledger.take_job(job.id)
        for pending in dropped:
            pending.abandon(errors.Cancelled("the request was cancelled"))

    def place(self, job: JobHandle) -> int:
        """As `Scheduler.place`."""
        with self.lock:
            return self.scheduler.place(job.id)

    def _note_cancelled(self, ticket: Ticket, job_id: int) -> None:
        if ticket.cancelled():
            self.cancelled.append(job_id)
            self._wake()

    # --- for the dispatcher

    def drop_expired(self) -> None:
        """Fail the jobs whose deadline has passed."""
        with self.lock:
            late = self.scheduler.expire(self._now())
            dropped = [pending for job_id in late for pending in self.ledger.take_job(job_id)]
        settle_all(dropped, errors.DeadlineExceeded("the request took longer than its time limit"))

    def drop_cancelled(self) -> None:
        """A caller cancelled a ticket by itself, without `cancel(job)`: one cancelled ticket cancels the whole job."""
        while self.cancelled:
            self.cancel(JobHandle(self.cancelled.popleft(), ()))

    def take_all(self) -> list[Pending]:
        """Drop every job. Returns the unresolved tickets, for the dispatcher to settle."""
        with self.lock:
            taken = [pending for job_id in self.ledger.jobs() for pending in self.ledger.take_job(job_id)]
            for job_id in self.scheduler.job_ids():
                self.scheduler.cancel(job_id)
        return taken

    def next_batch(self) -> tuple[RunningBatch | None, tuple[Payload, ...]]:
        """Plan batches until one has a work that was not cancelled meanwhile; claim its tickets."""
        now = self._now()
        with self.lock:
            while (batch := self.scheduler.next_batch(now)) is not None:
                live = []
                for work in batch.works:
                    pending = self.ledger.get(work)
                    pending.dispatched = now
                    # A ticket that is tried again was claimed before; a fresh one may just have been cancelled.
                    if pending.ticket.running() or pending.ticket.set_running_or_notify_cancel():
                        live.append(work)
                    else:
                        self.scheduler.finished(work)
                        self.ledger.take(work)
                if live:
                    payloads = tuple(self.ledger.get(work).payload for work in live)
                    last_try = self.scheduler.is_last_try(live)
                    return RunningBatch(batch.id, tuple(live), set(range(len(live))), now, last_try), payloads
        return None, ()

    def finished(self, work: Work) -> Pending | None:
        """A work has its answer. Returns its ticket, or None if it was cancelled or expired while it ran."""
        with self.lock:
            self.scheduler.finished(work)
            return self.ledger.take(work)

    def not_sent(self, works: Sequence[Work], unsendable: Sequence[Work]) -> list[Pending]:
        """A batch could not be encoded: `unsendable` fail, the rest is tried again. Returns the tickets that failed."""
        with self.lock:
            for work in unsendable:
                self.scheduler.finished(work)
            good = [work for work in works if work not in unsendable]
            _, lost = self.scheduler.failed(good, Failure.ERROR, alone=False)
            return self._take(*unsendable, *lost)

    def failed(self, running: RunningBatch, failure: Failure) -> tuple[Sequence[Work], list[Pending]]:
        """The unanswered works of a batch failed. Returns those that will be tried again, and the tickets of the others whose
        callers still wait."""
        with self.lock:
            retried, lost = self.scheduler.failed(running.remaining, failure, alone=len(running.works) == 1)
            unresolved = self._take(*lost)
            if failure is Failure.DEATH:
                for pending in unresolved:
                    self._quarantine.add(pending.payload, self._now())
        return retried, unresolved

    def went_well(self) -> None:
        """A batch ended with memory to spare."""
        with self.lock:
            self.scheduler.went_well()

    def are_pending(self, works: Iterable[Work]) -> bool:
        """Whether a caller still waits for any of them."""
        with self.lock:
            return any(self.ledger.has(work) for work in works)

    def are_waiting(self) -> bool:
        with self.lock:
            return self.scheduler.has_waiting()

    def next_deadline(self) -> float:
        with self.lock:
            return self.scheduler.next_deadline()

    def _take(self, *works: Work) -> list[Pending]:
        return [pending for work in works if (pending := self.ledger.take(work)) is not None]


def settle_all(unresolved: Iterable[Pending], error: errors.SteadyvoiceError) -> None:
    for pending in unresolved:
        pending.settle(copy.copy(error))  # each caller raises its own: an exception collects tracebacks
