"""Tickets in, answers out: one thread that feeds the scheduler and owns the worker.

Callers from any thread or event loop submit payloads and hold `concurrent.futures.Future`s. The engine's thread starts the
worker when work first comes, loads the model once, runs one batch at a time, and replaces a worker that died or hung. Knows
nothing of what is inside a payload.
"""

from __future__ import annotations

import enum
import itertools
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

from steadyvoice import errors
from steadyvoice.engine.scheduler import Limits, Scheduler, ServiceClass, Work
from steadyvoice.engine.worker_handle import WorkerGone, WorkerHandle, WorkerSpec
from steadyvoice.memory import MemoryLog, MemorySample
from steadyvoice.protocol import HEARTBEAT_S, ItemError, Message, ModelInfo, Payload, ProtocolError

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 1.0  # after a failed load or a second death in a row; doubles
LONGEST_BACKOFF_S = 30.0
FIRST_RATE = 10.0  # seconds of audio per second, until a batch has been measured
RATE_WEIGHT = 0.2  # of the newest batch in the running average
# When the engine's thread has not turned its loop for so long, something is badly wrong: it never blocks longer than a heartbeat.
THREAD_STALL_S = 30.0


class State(enum.Enum):
    """Of the model, as callers see it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    BACKOFF = "backoff"  # the last load failed; the next is tried when the time has passed and somebody asks
    CLOSED = "closed"


@dataclass(frozen=True)
class Answer:
    """What a ticket resolves to."""

    payload: Payload
    queue_s: float  # from submit until its batch went to the device
    inference_s: float  # spent by the worker on it, or on its batch where the engine computes the items together


@dataclass(frozen=True)
class Task:
    """One payload and its length in seconds of audio."""

    payload: Payload
    length: float


Ticket = Future[Answer]


@dataclass(frozen=True)
class JobHandle:
    """What `submit` returns: tickets in the order of the tasks."""

    id: int
    tickets: tuple[Ticket, ...]


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
class _Pending:
    """A work's ticket and where it stands."""

    ticket: Ticket
    payload: Payload
    submitted: float
    dispatched: float = 0.0


@dataclass(slots=True)
class _Running:
    """The batch on the device. `works` leaves out what was cancelled between planning and sending."""

    id: int
    works: tuple[Work, ...]
    unanswered: set[int]  # indices into `works`


class Engine:
    """See the module's docstring. `close()` it, or use it in a `with` statement."""

    def __init__(
        self,
        spec: WorkerSpec,
        limits: Limits,
        memory: MemoryLog | None = None,
        on_batch: Callable[[int, float, float], None] = lambda items, padded_s, inference_s: None,
    ) -> None:
        self._spec = spec
        self._scheduler = Scheduler(limits)
        self._memory = memory or MemoryLog()
        self._on_batch = on_batch
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._jobs: dict[int, list[int]] = {}  # job -> works that are unresolved
        self._cancelled: deque[int] = deque()  # jobs of which a caller cancelled a ticket
        self._rate = FIRST_RATE
        self._ids = itertools.count(1)
        self._wanted = False  # somebody asked for the model before there is work
        self._loaded = Future[ModelInfo]()
        self._worker: WorkerHandle | None = None
        self._model: ModelInfo | None = None
        self._running: _Running | None = None
        self._state = State.UNLOADED
        self._failures = 0  # in a row, of loads and of workers
        self._next_start = 0.0
        self._last_error: str | None = None
        self._loads = self._restarts = self._batches = self._largest_batch = 0
        self._load_began = 0.0
        self._beat = time.monotonic()
        wake_read, self._wake_write = os.pipe()
        self._wake_read = Connection(wake_read, writable=False)
        os.set_blocking(self._wake_write, False)
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
        with self._lock:
            if self._state is State.CLOSED:
                raise errors.EngineUnavailable("the server is shutting down", retry_after_s=5)
            if self._state is State.BACKOFF and now < self._next_start:
                raise self._unavailable()
            job_id = next(self._ids)
            works = [Work(next(self._ids), job_id, task.length) for task in tasks]
            try:
                self._scheduler.submit(job_id, works, now, caller=caller, service_class=service_class, deadline=now + timeout_s)
            except errors.Overloaded as error:
                error.retry_after_s = self._retry_after()
                raise
            tickets = []
            for work, task in zip(works, tasks, strict=True):
                ticket = Ticket()
                self._pending[work.id] = _Pending(ticket, task.payload, now)
                tickets.append(ticket)
            if works:
                self._jobs[job_id] = [work.id for work in works]
            else:
                self._scheduler.cancel(job_id)  # nothing to do: leaves at once
        for ticket in tickets:
            ticket.add_done_callback(lambda ticket: self._note_cancelled(ticket, job_id))
        self._wake()
        return JobHandle(job_id, tuple(tickets))

    def cancel(self, job: JobHandle) -> None:
        """Drop what waits of a job; its tickets become cancelled, or fail with `Cancelled` where they are on the device."""
        with self._lock:
            self._scheduler.cancel(job.id)
            gone = [self._pending.pop(work_id) for work_id in self._jobs.pop(job.id, [])]
        for pending in gone:
            if not pending.ticket.cancel():
                _resolve(pending.ticket, errors.Cancelled("the request was cancelled"))

    def load(self) -> Future[ModelInfo]:
        """Ask for the model without work. All who ask before it is there share one load and one future."""
        with self._lock:
            if self._state is State.CLOSED or (self._state is State.BACKOFF and time.monotonic() < self._next_start):
                failed = Future[ModelInfo]()
                failed.set_exception(self._unavailable())
                return failed
            self._wanted = self._model is None
            loaded = self._loaded
        self._wake()
        return loaded

    def place(self, job: JobHandle) -> int:
        """0 once the job's first work has been on the device, else its place among those who wait for their first turn."""
        with self._lock:
            return self._scheduler.place(job.id)

    def status(self) -> EngineStatus:
        now = time.monotonic()
        with self._lock:
            return EngineStatus(
                state=self._state,
                model=self._model,
                worker_pid=self._worker.pid if self._worker else None,
                jobs=self._scheduler.jobs,
                backlog_s=self._scheduler.backlog_s,
                loads=self._loads,
                restarts=self._restarts,
                batches=self._batches,
                largest_batch=self._largest_batch,
                retry_after_s=self._retry_after(),
                last_error=self._last_error,
                stalled=not self._thread.is_alive() or now - self._beat > THREAD_STALL_S,
            )

    def close(self) -> None:
        """Stop the worker; whoever still waits gets EngineUnavailable. Returns when the worker is gone."""
        with self._lock:
            self._state = State.CLOSED
        self._wake()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the engine's thread

    def _run(self) -> None:
        try:
            while self._state is not State.CLOSED:
                self._beat = time.monotonic()
                self._expire()
                self._drop_cancelled()
                self._start_worker_if_wanted()
                self._dispatch()
                self._listen()
        finally:
            # Also on a bug in here: nobody may be left waiting for a thread that is gone.
            with self._lock:
                self._state = State.CLOSED
                left = list(self._pending.values())
                self._pending.clear()
                self._jobs.clear()
            if self._worker is not None:
                self._worker.stop()
                self._worker = None
            closed = errors.EngineUnavailable("the server is shutting down", retry_after_s=5)
            for pending in left:
                _resolve(pending.ticket, closed)
            if not self._loaded.done():
                self._loaded.set_exception(closed)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups: one more says nothing new

    def _expire(self) -> None:
        with self._lock:
            late = [
                self._pending.pop(work_id)
                for job_id in self._scheduler.expire(time.monotonic())
                for work_id in self._jobs.pop(job_id, [])
            ]
        for pending in late:
            _resolve(pending.ticket, errors.DeadlineExceeded("the request took longer than its time limit"))

    def _note_cancelled(self, ticket: Ticket, job_id: int) -> None:
        if ticket.cancelled():
            self._cancelled.append(job_id)
            self._wake()

    def _drop_cancelled(self) -> None:
        """A caller cancelled a ticket by itself, without `cancel(job)`: one ticket gone is the whole job gone."""
        while self._cancelled:
            self.cancel(JobHandle(self._cancelled.popleft(), ()))

    def _start_worker_if_wanted(self) -> None:
        now = time.monotonic()
        with self._lock:
            wanted = self._wanted or self._scheduler.has_waiting()
            if self._worker is not None or not wanted or now < self._next_start or self._state is State.CLOSED:
                return
            self._state = State.LOADING
            self._load_began = now
        try:
            worker = WorkerHandle(self._spec)
            worker.send(Message("load"))
        except (OSError, WorkerGone) as error:
            self._load_failed(f"the worker process could not be started: {error}")
            return
        with self._lock:
            self._worker = worker

    def _dispatch(self) -> None:
        if self._running is not None or self._model is None or self._worker is None:
            return
        while True:
            now = time.monotonic()
            with self._lock:
                batch = self._scheduler.next_batch(now)
                if batch is None:
                    return
                live: list[Work] = []
                cancelled: list[Work] = []
                for work in batch.works:
                    pending = self._pending[work.id]
                    # A ticket that is tried again is running already; a fresh one must not have been cancelled meanwhile.
                    alive = pending.ticket.running() or pending.ticket.set_running_or_notify_cancel()
                    (live if alive else cancelled).append(work)
                    pending.dispatched = now
                for work in cancelled:
                    self._scheduler.finished(work)
                    self._forget(work)
                items = tuple(self._pending[work.id].payload for work in live)
            if live:
                break
        self._running = _Running(batch.id, tuple(live), set(range(len(live))))
        self._batches += 1
        self._largest_batch = max(self._largest_batch, len(live))
        try:
            self._worker.send(Message("batch", {"id": batch.id}, items))
        except WorkerGone:
            self._worker_died("died")
        except ProtocolError as error:  # nothing was sent: the worker is fine, the payloads are not
            log.error("batch %d cannot be sent: %s", batch.id, error)
            self._running = None
            with self._lock:
                for work in live:
                    self._scheduler.finished(work)
                unsendable = [self._forget(work) for work in live]
            for pending in filter(None, unsendable):
                _resolve(pending.ticket, errors.ItemFailed("the request could not be handed to the engine"))
            self._wake()

    def _listen(self) -> None:
        """Sleep until the worker speaks, somebody wakes us, or a timer is due."""
        with self._lock:
            due = self._scheduler.next_deadline()
            waiting = self._wanted or self._scheduler.has_waiting()
        now = time.monotonic()
        timers = [due - now]
        if self._worker is not None:
            timers.append(HEARTBEAT_S)  # look after its heartbeat
        elif waiting:
            timers.append(self._next_start - now)
        timeout = min(*timers, THREAD_STALL_S / 3)
        sources = [self._wake_read] + ([self._worker.connection] if self._worker else [])
        ready = wait(sources, max(0.0, timeout))
        if self._wake_read in ready:
            os.read(self._wake_read.fileno(), 4096)
        if self._worker is None:
            return
        try:
            while self._worker is not None and (message := self._worker.receive()) is not None:
                self._hear(message)
        except WorkerGone:
            self._worker_died("died")
        except ProtocolError as error:
            log.error("worker talks nonsense: %s", error)
            self._worker_died("broke the protocol")
        else:
            if self._worker is not None and self._worker.hung:
                self._worker_died("hung")

    # --- what the worker says

    def _hear(self, message: Message) -> None:
        match message.kind:
            case "loaded":
                self._became_ready(message)
            case "load_failed":
                self._load_failed(str(message.fields["reason"]))
            case "result" | "failed":
                self._answered(message)
            case "done":
                self._batch_done(message)
            case "hello" | "heartbeat":
                pass
            case kind:
                raise ProtocolError(f"unknown message {kind!r}")

    def _became_ready(self, message: Message) -> None:
        model = ModelInfo(**message.fields["model"])
        with self._lock:
            self._model = model
            self._state = State.READY
            self._wanted = False
            self._last_error = None
            self._loads += 1
            limits = self._scheduler.limits
            self._scheduler.limits = replace(limits, max_batch_items=model.max_batch_items)
            loaded = self._loaded
        self._record_memory(message)
        log.info("engine %s (%s) loaded in %.2f s", model.name, model.revision, time.monotonic() - self._load_began)
        loaded.set_result(model)

    def _load_failed(self, reason: str) -> None:
        self._end_worker()
        with self._lock:
            self._last_error = f"the model could not be loaded: {reason}"
            self._wanted = False
            self._back_off(State.BACKOFF)
            left = list(self._pending.items())
            for work_id, _ in left:
                self._pending.pop(work_id)
            for job_id in list(self._jobs):
                self._scheduler.cancel(job_id)
            self._jobs.clear()
            loaded, self._loaded = self._loaded, Future()
            unavailable = self._unavailable()
        log.error("%s; next attempt in %.0f s at the earliest", self._last_error, self._next_start - time.monotonic())
        for _, pending in left:
            _resolve(pending.ticket, unavailable)
        loaded.set_exception(unavailable)

    def _answered(self, message: Message) -> None:
        running, index = self._running, message.fields["index"]
        if running is None or message.fields["batch"] != running.id or index not in running.unanswered:
            raise ProtocolError(f"an answer to item {index} of batch {message.fields['batch']}, which nobody asked for")
        work = running.works[index]
        running.unanswered.remove(index)
        with self._lock:
            self._scheduler.finished(work)
            pending = self._forget(work)
        if pending is None:
            return  # cancelled or expired while it ran
        if message.kind == "result":
            inference_s = float(message.fields["seconds"])
            _resolve(pending.ticket, Answer(message.items[0], pending.dispatched - pending.submitted, inference_s))
        else:
            _resolve(pending.ticket, _item_error(ItemError(**message.fields["error"])))

    def _batch_done(self, message: Message) -> None:
        running = self._running
        if running is None or message.fields["batch"] != running.id or running.unanswered:
            raise ProtocolError("a batch was reported as done with items unanswered")
        self._running = None
        self._record_memory(message)
        lengths = [work.length for work in running.works]
        seconds = float(message.fields["seconds"])
        with self._lock:
            self._failures = 0  # it works: the next death starts counting afresh
            self._rate += RATE_WEIGHT * (sum(lengths) / max(seconds, 1e-3) - self._rate)
        self._on_batch(len(lengths), len(lengths) * max(lengths), seconds)

    def _worker_died(self, how: str) -> None:
        """Replace the worker; what it was working on is tried once more, then fails."""
        loading = self._model is None
        status = self._end_worker()
        log.error("worker %s (exit status %s)", how, status)
        if loading:
            self._load_failed(f"the worker {how} while loading")
            return
        running, self._running = self._running, None
        with self._lock:
            self._restarts += 1
            self._last_error = f"the worker {how}"
            if self._failures == 0:
                self._failures = 1  # the first death costs no wait
                self._state = State.UNLOADED
            else:
                self._back_off(State.UNLOADED)
            retried, lost = self._scheduler.failed(running.works[i] for i in running.unanswered) if running else ((), ())
            pending = [self._forget(work) for work in lost]
        if retried:
            log.warning("%d items will be tried again in a new worker", len(retried))
        for item in pending:
            if item is not None:
                _resolve(item.ticket, errors.WorkerDied(f"the worker {how} twice while working on this request"))

    # --- small things

    def _retry_after(self) -> float:
        """Seconds after which there should be room: until the next load may be tried, or until what waits is done."""
        return max(1.0, self._next_start - time.monotonic(), min(60.0, self._scheduler.backlog_s / self._rate))

    def _end_worker(self) -> int | None:
        with self._lock:
            worker, self._worker = self._worker, None
            self._model = None
            if self._loaded.done():
                self._loaded = Future()
        return worker.kill() if worker is not None else None

    def _back_off(self, state: State) -> None:
        self._state = state
        delay = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2**self._failures)
        self._failures += 1
        self._next_start = time.monotonic() + delay

    def _forget(self, work: Work) -> _Pending | None:
        works = self._jobs.get(work.job)
        if works is not None:
            works.remove(work.id)
            if not works:
                del self._jobs[work.job]
        return self._pending.pop(work.id, None)

    def _record_memory(self, message: Message) -> None:
        self._memory.record(MemorySample(**message.fields["memory"]))

    def _unavailable(self) -> errors.EngineUnavailable:
        return errors.EngineUnavailable(self._last_error or "the engine is not available", retry_after_s=self._retry_after())


def _resolve(ticket: Ticket, outcome: Answer | Exception) -> None:
    """Resolve a ticket whose caller may cancel it at this very moment."""
    try:
        if isinstance(outcome, Exception):
            ticket.set_exception(outcome)
        else:
            ticket.set_result(outcome)
    except InvalidStateError:
        pass  # cancelled a moment ago: its caller no longer cares


def _item_error(error: ItemError) -> errors.SteadyvoiceError:
    kinds = {"invalid": errors.InvalidInput, "oom": errors.OutOfMemory}
    return kinds.get(error.kind, errors.ItemFailed)(error.message)
