"""Tickets in, answers out: one thread that feeds the scheduler and owns the worker.

Callers from any thread or event loop submit payloads and hold `concurrent.futures.Future`s. The engine's thread starts the
worker when work first comes, loads the model once, runs one batch at a time, and replaces a worker that died or hung. Knows
nothing of what is inside a payload.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

from steadyvoice import errors
from steadyvoice.engine.alarm import Alarm
from steadyvoice.engine.scheduler import Limits, Scheduler, ServiceClass, Work
from steadyvoice.engine.tickets import Answer, JobHandle, Ledger, Pending, Task, Ticket, item_error, settle
from steadyvoice.engine.worker_handle import WorkerGone, WorkerHandle, WorkerSpec
from steadyvoice.engine.worker_slot import State, WorkerSlot
from steadyvoice.memory import MemoryLog, MemorySample
from steadyvoice.protocol import HEARTBEAT_S, ItemError, Message, ModelInfo, Payload, ProtocolError, can_be_sent

log = logging.getLogger(__name__)

FIRST_RATE = 10.0  # seconds of audio per second, until a batch has been measured
RATE_WEIGHT = 0.2  # of the newest batch in the running average
# When the engine's thread has not turned its loop for so long, something is badly wrong: it never blocks longer than a heartbeat.
THREAD_STALL_S = 30.0


@dataclass(frozen=True)
class EngineStatus:
    """A snapshot for health, metrics and pages."""

    state: State
    model: ModelInfo | None
    worker_pid: int | None
    jobs: int
    backlog_s: float
    loads: int
    restarts: int
    batches: int
    largest_batch: int
    retry_after_s: float
    last_error: str | None
    stalled: bool


@dataclass(slots=True)
class _Running:
    """The batch on the device. `works` leaves out what was cancelled between planning and sending."""

    id: int
    works: tuple[Work, ...]
    unanswered: set[int]  # indices into `works`
    since: float  # monotonic seconds


class Engine:
    """See the module's docstring. `close()` it, or use it in a `with` statement."""

    def __init__(
        self,
        spec: WorkerSpec,
        limits: Limits,
        memory: MemoryLog | None = None,
        on_batch: Callable[[int, float, float], None] = lambda items, padded_s, inference_s: None,
        on_crash: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_batch` hears of every finished batch; `on_crash` of a bug that ended the engine's thread, after all who waited.
        Both are called on that thread."""
        self._lock = threading.Lock()  # guards scheduler and ledger
        self._scheduler = Scheduler(limits)
        self._ledger = Ledger()
        self._slot = WorkerSlot(spec)
        self._running: _Running | None = None
        self._cancelled: deque[int] = deque()  # jobs of which a caller cancelled a ticket
        self._ids = itertools.count(1)
        self._memory = memory or MemoryLog()
        self._on_batch = on_batch
        self.on_crash = on_crash
        self._rate = FIRST_RATE
        self._batches = self._largest_batch = 0
        self._closing = False
        self._beat = time.monotonic()
        self._alarm = Alarm()
        self._thread = threading.Thread(target=self._run, name=f"engine-{spec.engine}", daemon=True)
        self._thread.start()

    # --- for callers, from any thread

    def submit(
        self,
        tasks: Sequence[Task],
        *,
        caller: str,
        service_class: ServiceClass = ServiceClass.INTERACTIVE,
        timeout_s: float = float("inf"),
    ) -> JobHandle:
        """Admit all tasks or none.

        Each ticket resolves exactly once: to an `Answer`, to one of `steadyvoice.errors`, or to cancelled.

        Raises:
            Overloaded: the backlog is full.
            TooLarge: a task alone is over the batch budget.
            EngineUnavailable: the model failed to load a moment ago, or the engine is closed.
        """
        now = time.monotonic()
        job_id = next(self._ids)
        if not tasks:
            return JobHandle(job_id, ())
        with self._lock:
            if self._closing:
                raise _shutting_down()
            if self._slot.backing_off:
                raise self._unavailable()
            works = [Work(next(self._ids), job_id, task.length) for task in tasks]
            try:
                self._scheduler.submit(job_id, works, now, caller=caller, service_class=service_class, deadline=now + timeout_s)
            except errors.Overloaded as error:
                error.retry_after_s = self._retry_after()
                raise
            tickets = self._ledger.add(works, tasks, now)
        for ticket in tickets:
            ticket.add_done_callback(lambda ticket: self._note_cancelled(ticket, job_id))
        self._alarm.ring()
        return JobHandle(job_id, tickets)

    def cancel(self, job: JobHandle) -> None:
        """Drop what waits of a job; its tickets become cancelled, or fail with `Cancelled` where they are on the device."""
        with self._lock:
            self._scheduler.cancel(job.id)
            owed = self._ledger.take_job(job.id)
        for pending in owed:
            pending.abandon(errors.Cancelled("the request was cancelled"))

    def load(self) -> Future[ModelInfo]:
        """Ask for the model without work. All who ask before it is there share one load."""
        with self._lock:
            if self._closing or self._slot.backing_off:
                failed: Future[ModelInfo] = Future()
                failed.set_exception(_shutting_down() if self._closing else self._unavailable())
                return failed
            loaded = self._slot.loaded
            self._slot.wanted = not loaded.done()
        self._alarm.ring()
        mine: Future[ModelInfo] = Future()  # a caller may cancel its own without taking it from the others
        loaded.add_done_callback(lambda done: settle(mine, done.exception() or done.result()))
        return mine

    def place(self, job: JobHandle) -> int:
        """0 once the job's first work has been on the device, else its place among those who wait for their first turn."""
        with self._lock:
            return self._scheduler.place(job.id)

    def status(self) -> EngineStatus:
        slot, worker = self._slot, self._slot.worker
        with self._lock:
            return EngineStatus(
                state=slot.state,
                model=slot.model,
                worker_pid=worker.pid if worker else None,
                jobs=self._scheduler.jobs,
                backlog_s=self._scheduler.backlog_s,
                loads=slot.loads,
                restarts=slot.deaths,
                batches=self._batches,
                largest_batch=self._largest_batch,
                retry_after_s=self._retry_after(),
                last_error=slot.last_error,
                stalled=not self._thread.is_alive() or time.monotonic() - self._beat > THREAD_STALL_S,
            )

    def close(self) -> None:
        """Stop the worker; whoever still waits gets EngineUnavailable. Returns when the worker is gone."""
        with self._lock:
            self._closing = True
        self._alarm.ring()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the engine's thread

    def _run(self) -> None:
        crashed = True
        try:
            while not self._closing:
                self._beat = time.monotonic()
                self._drop_expired()
                self._drop_cancelled()
                self._start_worker_if_wanted()
                self._dispatch()
                self._listen()
            crashed = False
        finally:
            # Also on a bug in here: nobody may be left waiting for a thread that is gone.
            with self._lock:
                self._closing = True
                owed = [pending for job_id in self._ledger.jobs() for pending in self._ledger.take_job(job_id)]
                for job_id in self._scheduler.job_ids():
                    self._scheduler.cancel(job_id)
            self._slot.close()
            self._alarm.close()
            _settle(owed, _shutting_down())
            if not self._slot.loaded.done():
                self._slot.loaded.set_exception(_shutting_down())
            if crashed:
                log.critical("the engine's thread ended by a bug", exc_info=True)
                self.on_crash()

    def _drop_expired(self) -> None:
        with self._lock:
            late = self._scheduler.expire(time.monotonic())
            owed = [pending for job_id in late for pending in self._ledger.take_job(job_id)]
        _settle(owed, errors.DeadlineExceeded("the request took longer than its time limit"))

    def _note_cancelled(self, ticket: Ticket, job_id: int) -> None:
        if ticket.cancelled():
            self._cancelled.append(job_id)
            self._alarm.ring()

    def _drop_cancelled(self) -> None:
        """A caller cancelled a ticket by itself, without `cancel(job)`: one ticket gone is the whole job gone."""
        while self._cancelled:
            self.cancel(JobHandle(self._cancelled.popleft(), ()))

    def _start_worker_if_wanted(self) -> None:
        if self._slot.worker is None and self._is_worker_wanted() and not self._slot.wait_s:
            problem = self._slot.start()
            if problem:
                self._load_failed(problem)

    def _is_worker_wanted(self) -> bool:
        with self._lock:
            return self._slot.wanted or self._scheduler.has_waiting()

    def _dispatch(self) -> None:
        """Send the next batch if the device is free."""
        worker = self._slot.worker
        if self._running is not None or self._slot.model is None or worker is None:
            return
        running, payloads = self._next_running()
        if running is None:
            return
        self._running = running
        self._batches += 1
        self._largest_batch = max(self._largest_batch, len(running.works))
        try:
            worker.send(Message("batch", {"id": running.id}, payloads))
        except WorkerGone:
            self._worker_died("died")
        except ProtocolError as error:  # nothing was sent: the worker is fine, the payloads are not
            log.error("batch %d cannot be sent: %s", running.id, error)
            self._running = None
            bad = [work for work, payload in zip(running.works, payloads, strict=True) if not can_be_sent(payload)]
            with self._lock:
                for work in bad:
                    self._scheduler.finished(work)
                _, lost = self._scheduler.failed(work for work in running.works if work not in bad)
                owed = [self._ledger.take(work) for work in (*bad, *lost)]
            _settle(owed, errors.ItemFailed("the request could not be handed to the engine"))
            self._alarm.ring()

    def _next_running(self) -> tuple[_Running | None, tuple[Payload, ...]]:
        """Plan batches until one has a work that nobody cancelled meanwhile; claim its tickets."""
        now = time.monotonic()
        with self._lock:
            while (batch := self._scheduler.next_batch(now)) is not None:
                live = []
                for work in batch.works:
                    pending = self._ledger.get(work)
                    pending.dispatched = now
                    # A ticket that is tried again was claimed before; a fresh one may just have been cancelled.
                    if pending.ticket.running() or pending.ticket.set_running_or_notify_cancel():
                        live.append(work)
                    else:
                        self._scheduler.finished(work)
                        self._ledger.take(work)
                if live:
                    payloads = tuple(self._ledger.get(work).payload for work in live)
                    return _Running(batch.id, tuple(live), set(range(len(live))), now), payloads
        return None, ()

    def _listen(self) -> None:
        """Sleep until the worker speaks, somebody rings, or a timer is due; then hear everything that was said."""
        worker = self._slot.worker
        with self._lock:
            timers = [self._scheduler.next_deadline() - time.monotonic(), THREAD_STALL_S / 3]
        if worker is not None:
            timers.append(HEARTBEAT_S)  # look after its heartbeat
        elif self._is_worker_wanted():
            timers.append(self._slot.wait_s)
        sources = [self._alarm.source] + ([worker.connection] if worker else [])
        if self._alarm.source in wait(sources, max(0.0, min(timers))):
            self._alarm.quiet()
        try:
            while (worker := self._slot.worker) is not None and (message := worker.receive()) is not None:
                self._hear(message)
        except WorkerGone:
            self._worker_died("died")
        except (ProtocolError, LookupError, TypeError, ValueError, OverflowError) as error:
            log.error("worker talks nonsense: %r", error)
            self._worker_died("broke the protocol")
        else:
            if worker is not None and (worker.hung or self._is_stuck(worker)):
                self._worker_died("hung")

    def _is_stuck(self, worker: WorkerHandle) -> bool:
        """Nobody waits for the running batch any more, and yet it does not end: its model call may never return."""
        running = self._running
        if running is None or time.monotonic() - running.since < worker.heartbeat_timeout_s:
            return False
        with self._lock:
            return not any(self._ledger.owes(running.works[index]) for index in running.unanswered)

    # --- what the worker says

    def _hear(self, message: Message) -> None:
        """Each case reads the whole message before it changes anything: a wrong one must leave nothing half done."""
        match message.kind:
            case "loaded" if self._slot.state is State.LOADING:
                self._became_ready(message)
            case "load_failed" if self._slot.state is State.LOADING:
                self._load_failed(str(message.fields["reason"]))
            case "result" | "failed":
                self._answered(message)
            case "done":
                self._batch_done(message)
            case "hello" | "heartbeat":
                pass
            case kind:
                raise ProtocolError(f"message {kind!r} is unknown, or out of place")

    def _became_ready(self, message: Message) -> None:
        model = ModelInfo(**message.fields["model"])
        self._memory.record(MemorySample(**message.fields["memory"]))
        with self._lock:
            self._scheduler.limits = replace(self._scheduler.limits, max_batch_items=model.max_batch_items)
        self._slot.became_ready(model)

    def _load_failed(self, reason: str) -> None:
        """Everybody who waits hears of it; the next who asks after the backoff starts another attempt."""
        loaded = self._slot.load_failed(reason)
        with self._lock:
            owed = [pending for job_id in self._ledger.jobs() for pending in self._ledger.take_job(job_id)]
            for job_id in self._scheduler.job_ids():
                self._scheduler.cancel(job_id)
            unavailable = self._unavailable()
        _settle(owed, unavailable)
        loaded.set_exception(unavailable)

    def _answered(self, message: Message) -> None:
        running, index = self._running, message.fields["index"]
        if running is None or message.fields["batch"] != running.id or index not in running.unanswered:
            raise ProtocolError(f"an answer to item {index} of batch {message.fields['batch']}, which nobody asked for")
        outcome: errors.SteadyvoiceError | float
        if message.kind == "result":
            (payload,), outcome = message.items, float(message.fields["seconds"])
        else:
            outcome = item_error(ItemError(**message.fields["error"]))
        running.unanswered.remove(index)
        with self._lock:
            self._scheduler.finished(running.works[index])
            pending = self._ledger.take(running.works[index])
        if pending is None:
            return  # cancelled or expired while it ran
        if isinstance(outcome, float):
            pending.settle(Answer(payload, pending.dispatched - pending.submitted, outcome))
        else:
            pending.settle(outcome)

    def _batch_done(self, message: Message) -> None:
        running = self._running
        if running is None or message.fields["batch"] != running.id or running.unanswered:
            raise ProtocolError("a batch was reported as done with items unanswered")
        seconds = float(message.fields["seconds"])
        self._memory.record(MemorySample(**message.fields["memory"]))
        self._running = None
        self._slot.worked()
        lengths = [work.length for work in running.works]
        self._rate += RATE_WEIGHT * (sum(lengths) / max(seconds, 1e-3) - self._rate)
        try:
            self._on_batch(len(lengths), len(lengths) * max(lengths), seconds)
        except Exception:
            log.exception("an observer of batches failed")

    def _worker_died(self, how: str) -> None:
        """Replace the worker; what it was working on is tried once more, then fails."""
        if self._slot.state is State.LOADING and not self._slot.may_try_again:
            self._load_failed(f"the worker {how} while loading")
            return
        self._slot.died(how)
        running, self._running = self._running, None
        if running is None:
            return
        with self._lock:
            retried, lost = self._scheduler.failed(running.works[index] for index in running.unanswered)
            owed = [self._ledger.take(work) for work in lost]
        log.warning("%d items will be tried again in a new worker, %d failed", len(retried), len(lost))
        _settle(owed, errors.WorkerDied(f"the worker {how} twice while working on this request"))

    # --- small things

    def _retry_after(self) -> float:
        """Seconds after which there should be room: until the next load may be tried, or until what waits is done."""
        return max(1.0, self._slot.wait_s, min(60.0, self._scheduler.backlog_s / self._rate))

    def _unavailable(self) -> errors.EngineUnavailable:
        return errors.EngineUnavailable(self._slot.last_error or "the engine is not available", retry_after_s=self._retry_after())


def _settle(owed: Sequence[Pending | None], error: errors.SteadyvoiceError) -> None:
    for pending in owed:
        if pending is not None:
            pending.settle(copy.copy(error))  # each caller raises its own: an exception collects tracebacks


def _shutting_down() -> errors.EngineUnavailable:
    return errors.EngineUnavailable("the server is shutting down", retry_after_s=5)
