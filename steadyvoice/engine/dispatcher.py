"""Tickets in, answers out: what the engine does, without its thread and without a clock of its own.

Callers from any thread or event loop submit payloads and hold `concurrent.futures.Future`s. Whoever drives the dispatcher calls
`turn` and `hear` from one thread, whenever something may have changed: the worker is started when work first comes, loads the
model once, runs one batch at a time, is replaced when it died or hung, and leaves when it is idle. Driven by `Engine`'s thread on
the real clock, and by the simulation on a virtual one. Knows nothing of what is inside a payload.
"""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import astuple, dataclass, replace

from steadyvoice import errors
from steadyvoice.engine.budget import Budget, CostModel
from steadyvoice.engine.quarantine import Quarantine
from steadyvoice.engine.scheduler import Failure, Limits, Scheduler, ServiceClass, Work
from steadyvoice.engine.status import EVENTS, BatchReport, EngineStatus
from steadyvoice.engine.tickets import Answer, JobHandle, Ledger, Pending, Task, Ticket, item_error, settle
from steadyvoice.engine.worker_lifecycle import State, WorkerSlot
from steadyvoice.engine.worker_process import Worker, WorkerGone, WorkerHandle, WorkerSpec
from steadyvoice.memory import MemoryLog, MemorySample, oom_kills
from steadyvoice.protocol import (
    EXIT_OUT_OF_MEMORY,
    HEARTBEAT_S,
    BatchBudget,
    ItemError,
    Message,
    ModelInfo,
    Payload,
    ProtocolError,
    can_be_sent,
)

log = logging.getLogger(__name__)

FIRST_RATE = 10.0  # seconds of audio per second, until a batch has been measured
RATE_WEIGHT = 0.2  # of the newest batch in the running average
LEAVE_WAIT_S = 10.0  # somebody who asked for the memory waits so long for the end of what runs
NEVER = float("inf")


@dataclass(frozen=True)
class Policy:
    """When a worker is let go that is well, and when one is taken to hang that says it lives."""

    idle_unload_s: float = NEVER  # after so long without work it leaves, and takes its memory with it
    batch_limit_s: float = 60.0  # a batch that is not through by then, and by `slowness` times what is expected, hangs
    slowness: float = 10.0
    load_limit_s: float = 1_200.0  # a model that has not loaded by then never will


DEFAULT_POLICY = Policy()


@dataclass(slots=True)
class _Running:
    """The batch on the device. `works` leaves out what was cancelled between planning and sending."""

    id: int
    works: tuple[Work, ...]
    unanswered: set[int]  # indices into `works`
    since: float  # of the last sign that it gets on
    last_try: bool = False  # if memory runs out, it has failed for good

    @property
    def padded_s(self) -> float:
        return len(self.works) * max(work.length for work in self.works)

    @property
    def left(self) -> tuple[Work, ...]:
        return tuple(self.works[index] for index in sorted(self.unanswered))


class Dispatcher:
    """See the module's docstring. `submit`, `cancel`, `load`, `place` and `status` are for any thread, the rest for one."""

    def __init__(
        self,
        spec: WorkerSpec,
        limits: Limits,
        memory: MemoryLog | None = None,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        policy: Policy = DEFAULT_POLICY,
        *,
        wake: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        spawn: Callable[[WorkerSpec], Worker] = WorkerHandle,
    ) -> None:
        """
        Args:
            on_batch: hears of every batch that ended well, on the thread that drives.
            wake: called from any thread when `turn` has something to do.
            clock: monotonic seconds.
            spawn: starts a worker; raises OSError.
        """
        self._lock = threading.Lock()  # guards scheduler, ledger and quarantine
        self._scheduler = Scheduler(limits)
        self._ledger = Ledger()
        self._quarantine = Quarantine()
        self._slot = WorkerSlot(spec, clock, spawn)
        self._running: _Running | None = None
        self._cancelled: deque[int] = deque()  # jobs of which a caller cancelled a ticket
        self._ids = itertools.count(1)
        self._memory = memory or MemoryLog()
        self._on_batch = on_batch
        self._policy = policy
        self._wake = wake
        self._now = clock
        self._rate = FIRST_RATE
        self._batches = self._largest_batch = 0
        self._events: Counter[str] = Counter()
        self._last_busy = clock()
        self._asked_to_leave = -NEVER  # when another worker asked last
        self._recycle_bytes = NEVER
        self._oom_kills = 0
        self._closing = False

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
            Quarantined: a task is known to end the worker.
            EngineUnavailable: the model failed to load a moment ago, or the engine is closed.
        """
        now = self._now()
        job_id = next(self._ids)
        if not tasks:
            return JobHandle(job_id, ())
        with self._lock:
            if self._closing:
                raise _shutting_down()
            if self._slot.backing_off:
                raise self._unavailable()
            for task in tasks:
                if left := self._quarantine.seconds_left(task.payload, now):
                    raise errors.Quarantined(f"this input ended the engine twice; it is refused for {left / 60:.0f} more minutes")
            works = [Work(next(self._ids), job_id, task.length, task.affinity) for task in tasks]
            try:
                self._scheduler.submit(job_id, works, now, caller=caller, service_class=service_class, deadline=now + timeout_s)
            except errors.Overloaded as error:
                too_much_s = self._scheduler.backlog_s + sum(work.length for work in works) - self._scheduler.limits.max_backlog_s
                error.retry_after_s = max(1.0, self._slot.wait_s, min(errors.LONGEST_WAIT_S, too_much_s / self._rate))
                raise
            tickets = self._ledger.add(works, tasks, now)
        for ticket in tickets:
            ticket.add_done_callback(lambda ticket: self._note_cancelled(ticket, job_id))
        self._wake()
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
        self._wake()
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
            budget = self._scheduler.limits.budget
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
                load_backoff_s=slot.wait_s if slot.backing_off else 0.0,
                last_error=slot.last_error,
                stalled=False,
                events={name: self._events[name] for name in EVENTS},
                budget_bytes=budget.bytes if budget.cost != CostModel() else None,
                budget_share=self._scheduler.share,
                longest_s=budget.longest_s,
            )

    # --- for the one who drives

    def turn(self) -> None:
        """Do everything that can be done now."""
        self._drop_expired()
        self._drop_cancelled()
        self._unload_if_idle()
        self._start_worker_if_wanted()
        self._dispatch()

    def hear(self) -> None:
        """Take in everything that the worker has said, and look after it if it says nothing."""
        try:
            while (worker := self._slot.worker) is not None and (message := worker.receive()) is not None:
                self._hear(message)
        except WorkerGone:
            self._worker_died("died")
        except (ProtocolError, LookupError, TypeError, ValueError, OverflowError, MemoryError) as error:
            log.error("worker talks nonsense: %r", error)
            self._worker_died("broke the protocol")
        else:
            if worker is not None and (worker.hung or self._is_stuck(worker)):
                self._worker_died("hung")

    def next_timer_s(self) -> float:
        """Seconds after which `turn` and `hear` have something to do even if nobody calls and the worker is silent."""
        now = self._now()
        with self._lock:
            timers = [self._scheduler.next_deadline() - now]
        if self._slot.worker is not None:
            timers.append(HEARTBEAT_S)
            if self._running is None and self._slot.state is State.READY and not self._is_worker_wanted():
                timers.append(self._last_busy + self._policy.idle_unload_s - now)
        elif self._is_worker_wanted():
            timers.append(self._slot.wait_s)
        return max(0.0, min(timers))

    @property
    def worker(self) -> Worker | None:
        return self._slot.worker

    def end(self) -> None:
        """Stop the worker; whoever still waits gets EngineUnavailable, and so does whoever comes."""
        with self._lock:
            self._closing = True
            owed = [pending for job_id in self._ledger.jobs() for pending in self._ledger.take_job(job_id)]
            for job_id in self._scheduler.job_ids():
                self._scheduler.cancel(job_id)
        self._slot.close()
        _settle(owed, _shutting_down())
        if not self._slot.loaded.done():
            self._slot.loaded.set_exception(_shutting_down())

    def _drop_expired(self) -> None:
        with self._lock:
            late = self._scheduler.expire(self._now())
            owed = [pending for job_id in late for pending in self._ledger.take_job(job_id)]
        _settle(owed, errors.DeadlineExceeded("the request took longer than its time limit"))

    def _note_cancelled(self, ticket: Ticket, job_id: int) -> None:
        if ticket.cancelled():
            self._cancelled.append(job_id)
            self._wake()

    def _drop_cancelled(self) -> None:
        """A caller cancelled a ticket by itself, without `cancel(job)`: one ticket gone is the whole job gone."""
        while self._cancelled:
            self.cancel(JobHandle(self._cancelled.popleft(), ()))

    def _start_worker_if_wanted(self) -> None:
        if self._slot.worker is None and self._is_worker_wanted() and not self._slot.wait_s:
            self._oom_kills = oom_kills()
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
            worker.send(Message("batch", {"id": running.id, "last_try": running.last_try}, payloads))
        except WorkerGone:
            self._worker_died("died")
        except ProtocolError as error:  # nothing was sent: the worker is fine, the payloads are not
            log.error("batch %d cannot be sent: %s", running.id, error)
            self._running = None
            bad = [work for work, payload in zip(running.works, payloads, strict=True) if not can_be_sent(payload)]
            with self._lock:
                for work in bad:
                    self._scheduler.finished(work)
                good = [work for work in running.works if work not in bad]
                _, dropped = self._scheduler.failed(good, Failure.ERROR, alone=False)
                owed = [self._ledger.take(work) for work in (*bad, *dropped)]
            _settle(owed, errors.ItemFailed("the request could not be handed to the engine"))
            self._wake()

    def _next_running(self) -> tuple[_Running | None, tuple[Payload, ...]]:
        """Plan batches until one has a work that nobody cancelled meanwhile; claim its tickets."""
        now = self._now()
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
                    last_try = self._scheduler.is_last_try(live)
                    return _Running(batch.id, tuple(live), set(range(len(live))), now, last_try), payloads
        return None, ()

    def _is_stuck(self, worker: Worker) -> bool:
        """The load or the running batch does not get on, though the worker says that it lives: a call may never return."""
        if self._slot.state is State.LOADING:
            return self._slot.loading_s > self._policy.load_limit_s
        running = self._running
        if running is None:
            return False
        silent_s = self._now() - running.since
        if silent_s >= self._policy.batch_limit_s + self._policy.slowness * running.padded_s / self._rate:
            return True
        if silent_s < worker.heartbeat_timeout_s:
            return False
        with self._lock:  # nobody waits for it any more
            return not any(self._ledger.owes(work) for work in running.left)

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
            case "aborted":
                self._batch_aborted(message)
            case "asked_to_leave":
                self._asked_to_leave = self._now()
            case "hello" | "heartbeat":
                pass
            case kind:
                raise ProtocolError(f"message {kind!r} is unknown, or out of place")

    def _became_ready(self, message: Message) -> None:
        model, sample = ModelInfo(**message.fields["model"]), MemorySample(**message.fields["memory"])
        measured = BatchBudget(**message.fields["budget"]) if message.fields.get("budget") else None
        if model.max_batch_items < 1:
            raise ProtocolError(f"a model with batches of {model.max_batch_items} items")
        if measured and not all(value >= 0 for value in astuple(measured)):  # nor NaN
            raise ProtocolError(f"a budget that cannot be: {measured}")
        self._memory.record(sample)
        with self._lock:
            limits = replace(self._scheduler.limits, max_batch_items=model.max_batch_items)
            if measured is not None:
                cost = CostModel(measured.fixed, measured.linear, measured.quadratic)
                limits = replace(limits, budget=Budget(limits.budget.padded_s, measured.bytes, cost))
            self._scheduler.limits = limits
        self._recycle_bytes = measured.recycle_bytes if measured else NEVER
        self._last_busy = self._now()
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
        if running is None or message.fields["batch"] != running.id or type(index) is not int or index not in running.unanswered:
            raise ProtocolError(f"an answer to item {index} of batch {message.fields['batch']}, which nobody asked for")
        outcome: errors.SteadyvoiceError | float
        if message.kind == "result":
            (payload,), outcome = message.items, float(message.fields["seconds"])
        else:
            outcome = item_error(ItemError(**message.fields["error"]), self._retry_after())
        running.unanswered.remove(index)
        running.since = self._now()
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
        seconds, used = float(message.fields["seconds"]), message.fields.get("used")
        if not 0 <= seconds < NEVER:  # a rate that is not a number would never again tell that a batch hangs
            raise ProtocolError(f"a batch took {seconds} s")
        sample = MemorySample(**message.fields["memory"])
        self._memory.record(sample)
        self._free_again()
        with self._lock:
            self._scheduler.went_well()
        lengths = [work.length for work in running.works]
        self._rate += RATE_WEIGHT * (sum(lengths) / max(seconds, 1e-3) - self._rate)
        cost = self._scheduler.limits.budget.cost
        predicted = cost.bytes(len(lengths), max(lengths)) if cost != CostModel() else None
        try:
            self._on_batch(BatchReport(len(lengths), running.padded_s, seconds, predicted, used))
        except Exception:
            log.exception("an observer of batches failed")
        self._recycle_if_grown(sample)

    def _batch_aborted(self, message: Message) -> None:
        """The model gave up on what is unanswered, and the worker lives: in parts it may well do it."""
        running, failure = self._running, Failure(message.fields["failure"])
        if running is None or message.fields["batch"] != running.id or not running.unanswered or failure is Failure.DEATH:
            raise ProtocolError("a batch was given up that is not running")
        sample = MemorySample(**message.fields["memory"])
        self._memory.record(sample)
        self._free_again()
        retried, owed = self._failed(running, failure)
        log.warning("batch %d: %s; %d items will be tried again, %d failed", running.id, failure.value, len(retried), len(owed))
        if failure is Failure.OUT_OF_MEMORY:
            _settle(owed, errors.OutOfMemory("the device has not enough memory for it now", retry_after_s=self._retry_after()))
        else:
            _settle(owed, errors.ItemFailed("the engine failed on this item"))
        self._recycle_if_grown(sample)

    def _failed(self, running: _Running, failure: Failure) -> tuple[Sequence[Work], list[Pending]]:
        """What is unanswered is tried again, or owed an error: those that are (the callers of others have gone)."""
        with self._lock:
            retried, lost = self._scheduler.failed(running.left, failure, alone=len(running.works) == 1)
            owed = [pending for work in lost if (pending := self._ledger.take(work)) is not None]
            if failure is Failure.DEATH:
                for pending in owed:
                    self._quarantine.add(pending.payload, self._now())
        match failure:
            case Failure.OUT_OF_MEMORY:
                self._events["oom_split" if len(retried) > 1 else "oom_refused" if owed else "oom_again"] += 1
            case Failure.ERROR:
                self._events["error_split"] += len(retried) > 1
            case Failure.DEATH:
                self._events["quarantined"] += len(owed)
        return retried, owed

    def _free_again(self) -> None:
        """The device is free and the worker well."""
        self._running = None
        self._last_busy = self._now()
        self._slot.worked()

    def _worker_died(self, how: str) -> None:
        """Replace the worker; what it was working on is tried again, and what it died on twice fails."""
        if self._slot.state is State.LOADING and not self._slot.may_try_again:
            self._load_failed(f"the worker {how} while loading")
            return
        self._events[how] += 1
        running, self._running = self._running, None
        # A batch that can still be split tells something; a lone item or an idle worker says that the fault may be elsewhere.
        status = self._slot.died(how, counts=running is None or len(running.works) == 1)
        if running is None:
            return
        failure = Failure.DEATH
        error: errors.SteadyvoiceError = errors.WorkerDied(f"the worker {how} twice while working on nothing but this request")
        if oom_kills() > self._oom_kills or status == EXIT_OUT_OF_MEMORY:  # the kernel took it, which is nobody's poison
            failure = Failure.OUT_OF_MEMORY
            error = errors.OutOfMemory("the machine ran out of memory", retry_after_s=self._retry_after())
        retried, owed = self._failed(running, failure)
        log.warning("%d items will be tried again in a new worker, %d failed", len(retried), len(owed))
        _settle(owed, error)

    # --- memory that is given back

    def _unload_if_idle(self) -> None:
        if self._now() >= self._last_busy + self._policy.idle_unload_s:
            self._leave_if_idle(f"idle for {self._policy.idle_unload_s:g} s")
        elif self._now() < self._asked_to_leave + LEAVE_WAIT_S:
            self._leave_if_idle("another worker needs the memory")

    def _leave_if_idle(self, why: str) -> None:
        if self._slot.state is not State.READY or self._running is not None or self._is_worker_wanted():
            return
        self._slot.leave(why)
        self._asked_to_leave = -NEVER
        self._events["unloaded"] += 1
        self._note_no_worker("unload")

    def _recycle_if_grown(self, sample: MemorySample) -> None:
        held = sample.rss if sample.allocated is None else sample.allocated
        if held > self._recycle_bytes:
            self._slot.leave(f"it holds {held / 1e6:.0f} MB, over {self._recycle_bytes / 1e6:.0f} MB")
            self._events["recycled"] += 1
            self._note_no_worker("recycle")

    def _note_no_worker(self, step: str) -> None:
        """Its memory is free again."""
        self._memory.record(MemorySample(step, "worker", time.time(), rss=0))
        self._memory.step(step)

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
