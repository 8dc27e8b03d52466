"""The engine without its thread and without a clock: it keeps one worker busy with the batches of `Jobs`.

Callers of any thread or event loop submit payloads and hold `concurrent.futures.Future`s. One thread calls `step` and `receive`
whenever something may have changed: the worker is started when there is work, loads the model once, runs one batch at a time, is
replaced when it died or hung, and is stopped when it is idle. `Engine`'s thread drives it on the real clock, the simulation on a
virtual one. Knows nothing of what is inside a payload.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from steadyvoice import errors
from steadyvoice.engine.batch_budget import UNMEASURED, Budget
from steadyvoice.engine.batch_runner import BatchRunner
from steadyvoice.engine.jobs import Jobs, settle_all
from steadyvoice.engine.scheduler import Limits, ServiceClass
from steadyvoice.engine.status import EVENTS, BatchReport, EngineStatus
from steadyvoice.engine.tickets import JobHandle, Task, settle
from steadyvoice.engine.worker_lifecycle import State, WorkerLifecycle
from steadyvoice.engine.worker_policy import DEFAULT_POLICY, NEVER, Policy
from steadyvoice.engine.worker_process import Worker, WorkerGone, WorkerProcess, WorkerSpec
from steadyvoice.memory import MemoryLog, MemorySample, oom_kills
from steadyvoice.protocol import ModelInfo, ProtocolError
from steadyvoice.protocol.messages import (
    EXIT_OUT_OF_MEMORY,
    HEARTBEAT_S,
    Aborted,
    AskedToLeave,
    Done,
    FromWorker,
    Heartbeat,
    Hello,
    ItemFailed,
    Loaded,
    LoadFailed,
    Result,
)

log = logging.getLogger(__name__)

LEAVE_WAIT_S = 10.0  # a worker that asked for the memory waits so long for the running batch to end
DEATHS = {"died": "died", "hung": "hung", "protocol_error": "broke the protocol"}  # event -> what is said of the worker


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
        spawn: Callable[[WorkerSpec], Worker] = WorkerProcess,
    ) -> None:
        """
        Args:
            on_batch: called with every batch that ended well, on the thread that calls `step`.
            wake: called from any thread when `step` has something to do.
            clock: monotonic seconds.
            spawn: starts a worker; raises OSError.
        """
        self._jobs = Jobs(limits, clock, wake, self._refusal)
        self._lifecycle = WorkerLifecycle(spec, clock, spawn)
        self._memory = memory or MemoryLog()
        self._policy = policy
        self._wake = wake
        self._now = clock
        self._events: Counter[str] = Counter()
        self._runner = BatchRunner(self._jobs, self._events, policy, clock, on_batch, self._retry_after)
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
        try:
            return self._jobs.submit(tasks, caller=caller, service_class=service_class, timeout_s=timeout_s)
        except errors.Overloaded as error:
            scheduler = self._jobs.scheduler
            excess_s = scheduler.backlog_s + sum(task.length for task in tasks) - scheduler.limits.max_backlog_s
            error.retry_after_s = max(1.0, self._lifecycle.wait_s, min(errors.LONGEST_WAIT_S, excess_s / self._runner.rate))
            raise

    def cancel(self, job: JobHandle) -> None:
        """Drop the waiting works of a job; its tickets become cancelled, or fail with `Cancelled` if they are on the device."""
        self._jobs.cancel(job)

    def load(self) -> Future[ModelInfo]:
        """Load the model without work. All calls before it is loaded share one load."""
        with self._jobs.lock:
            if refusal := self._refusal():
                failed: Future[ModelInfo] = Future()
                failed.set_exception(refusal)
                return failed
            loaded = self._lifecycle.loaded
            self._lifecycle.load_requested = not loaded.done()
        self._wake()
        mine: Future[ModelInfo] = Future()  # a caller may cancel its own without taking it from the others
        loaded.add_done_callback(lambda done: settle(mine, done.exception() or done.result()))
        return mine

    def place(self, job: JobHandle) -> int:
        """0 once the job's first work has been on the device, else its place among the jobs that wait for their first batch."""
        return self._jobs.place(job)

    def status(self) -> EngineStatus:
        lifecycle, worker, scheduler = self._lifecycle, self._lifecycle.worker, self._jobs.scheduler
        with self._jobs.lock:
            budget = scheduler.limits.budget
            return EngineStatus(
                state=lifecycle.state,
                model=lifecycle.model,
                worker_pid=worker.pid if worker else None,
                jobs=scheduler.jobs,
                backlog_s=scheduler.backlog_s,
                loads=lifecycle.loads,
                restarts=lifecycle.deaths,
                batches=self._runner.batches,
                largest_batch=self._runner.largest_batch,
                retry_after_s=self._retry_after(),
                load_backoff_s=lifecycle.wait_s if lifecycle.backing_off else 0.0,
                last_error=lifecycle.last_error,
                stalled=False,
                events={name: self._events[name] for name in EVENTS},
                budget_bytes=budget.bytes if budget.cost != UNMEASURED else None,
                budget_share=scheduler.share,
                longest_s=budget.longest_s,
            )

    # --- for the thread that drives it

    def step(self) -> None:
        """Do everything that can be done now."""
        self._jobs.drop_expired()
        self._jobs.drop_cancelled()
        self._unload_if_idle()
        self._start_worker_if_wanted()
        self._dispatch()

    def receive(self) -> None:
        """Handle every message that the worker has sent. Replace a worker that died, hung or sent an invalid message."""
        try:
            while (worker := self._lifecycle.worker) is not None and (message := worker.receive()) is not None:
                self._handle(message)
        except WorkerGone:
            self._worker_died("died")
        except (ProtocolError, MemoryError) as error:  # an answer may be too large for the memory that is left
            log.error("protocol error from worker: %r", error)
            self._worker_died("protocol_error")
        else:
            if worker is not None and (worker.hung or self._is_stuck(worker)):
                self._worker_died("hung")

    def next_timer_s(self) -> float:
        """Seconds after which `step` and `receive` have something to do even without a call or a message."""
        now = self._now()
        timers = [self._jobs.next_deadline() - now]
        if self._lifecycle.worker is not None:
            timers.append(HEARTBEAT_S)
            if self._runner.running is None and self._lifecycle.state is State.READY and not self._is_worker_wanted():
                timers.append(self._last_busy + self._policy.idle_unload_s - now)
        elif self._is_worker_wanted():
            timers.append(self._lifecycle.wait_s)
        return max(0.0, min(timers))

    @property
    def worker(self) -> Worker | None:
        return self._lifecycle.worker

    def end(self) -> None:
        """Stop the worker. Every unresolved ticket gets EngineUnavailable, and so does every later call."""
        self._closing = True
        unresolved = self._jobs.take_all()
        self._lifecycle.close()
        settle_all(unresolved, _shutting_down())
        if not self._lifecycle.loaded.done():
            self._lifecycle.loaded.set_exception(_shutting_down())

    # --- starting the worker and sending batches

    def _start_worker_if_wanted(self) -> None:
        if self._lifecycle.worker is None and self._is_worker_wanted() and not self._lifecycle.wait_s:
            self._oom_kills = oom_kills()
            if problem := self._lifecycle.start():
                self._load_failed(problem)

    def _is_worker_wanted(self) -> bool:
        return self._lifecycle.load_requested or self._jobs.are_waiting()

    def _dispatch(self) -> None:
        """Send the next batch if the device is free."""
        worker = self._lifecycle.worker
        if self._runner.running is not None or self._lifecycle.model is None or worker is None:
            return
        try:
            if not self._runner.send_next(worker):
                self._wake()
        except WorkerGone:
            self._worker_died("died")

    def _is_stuck(self, worker: Worker) -> bool:
        """The load or the running batch makes no progress though heartbeats arrive: a call may never return."""
        if self._lifecycle.state is State.LOADING:
            return self._lifecycle.loading_s > self._policy.load_limit_s
        return self._runner.is_stuck(worker.heartbeat_timeout_s)

    # --- messages from the worker

    def _handle(self, message: FromWorker) -> None:
        """Each case checks the whole message before it changes anything, so that an invalid one leaves no half-made change."""
        match message:
            case Loaded() if self._lifecycle.state is State.LOADING:
                self._became_ready(message)
            case LoadFailed() if self._lifecycle.state is State.LOADING:
                self._load_failed(message.reason)
            case Result() | ItemFailed():
                self._runner.item_answered(message)
            case Done() | Aborted():
                self._batch_ended(message)
            case AskedToLeave():
                self._asked_to_leave = self._now()
            case Hello() | Heartbeat():
                pass
            case _:
                raise ProtocolError(f"message {message.kind!r} while the worker is {self._lifecycle.state.value}")

    def _became_ready(self, message: Loaded) -> None:
        self._memory.record(message.memory)
        measured = message.budget
        with self._jobs.lock:
            limits = replace(self._jobs.scheduler.limits, max_batch_items=message.model.max_batch_items)
            if measured is not None:
                limits = replace(limits, budget=Budget(limits.budget.padded_s, measured.bytes, measured.cost))
            self._jobs.scheduler.limits = limits
        self._recycle_bytes = measured.recycle_bytes if measured else NEVER
        self._last_busy = self._now()
        self._lifecycle.became_ready(message.model)

    def _load_failed(self, reason: str) -> None:
        """Fail every job. The next call after the backoff starts another attempt."""
        loaded = self._lifecycle.load_failed(reason)
        unresolved = self._jobs.take_all()
        unavailable = self._unavailable()
        settle_all(unresolved, unavailable)
        loaded.set_exception(unavailable)

    def _batch_ended(self, message: Done | Aborted) -> None:
        """The device is free and the worker is healthy, whether the batch succeeded or not."""
        running = self._runner.end_batch(message)
        self._memory.record(message.memory)
        self._last_busy = self._now()
        self._lifecycle.worked()
        self._runner.settle_batch(running, message)
        self._recycle_if_grown(message.memory)

    def _worker_died(self, how: str) -> None:
        """Replace the worker. Its batch is tried again in parts; an item that was alone with two dying workers fails."""
        if self._lifecycle.state is State.LOADING and not self._lifecycle.may_try_again:
            self._load_failed(f"the worker {DEATHS[how]} while loading")
            return
        self._events[how] += 1
        running, self._runner.running = self._runner.running, None
        # The death of a batch that can still be split says something of its items. With a lone item, or while the worker is idle,
        # the cause may be elsewhere, so it counts towards the backoff.
        status = self._lifecycle.died(DEATHS[how], counts=running is None or len(running.works) == 1)
        if running is None:
            return
        # The kernel killed it for memory, or it could not go on for want of memory: no item is to blame.
        out_of_memory = oom_kills() > self._oom_kills or status == EXIT_OUT_OF_MEMORY
        self._runner.worker_died(running, DEATHS[how], out_of_memory)

    # --- stopping a healthy worker

    def _unload_if_idle(self) -> None:
        if self._now() >= self._last_busy + self._policy.idle_unload_s:
            self._leave_if_idle(f"idle for {self._policy.idle_unload_s:g} s")
        elif self._now() < self._asked_to_leave + LEAVE_WAIT_S:
            self._leave_if_idle("another worker needs the memory")

    def _leave_if_idle(self, why: str) -> None:
        if self._lifecycle.state is not State.READY or self._runner.running is not None or self._is_worker_wanted():
            return
        self._lifecycle.leave(why)
        self._asked_to_leave = -NEVER
        self._events["unloaded"] += 1
        self._note_no_worker("unload")

    def _recycle_if_grown(self, sample: MemorySample) -> None:
        held = sample.rss if sample.allocated is None else sample.allocated
        if held > self._recycle_bytes:
            self._lifecycle.leave(f"it holds {held / 1e6:.0f} MB, over {self._recycle_bytes / 1e6:.0f} MB")
            self._events["recycled"] += 1
            self._note_no_worker("recycle")

    def _note_no_worker(self, step: str) -> None:
        """Record that the worker's memory is free again."""
        self._memory.record(MemorySample(step, "worker", time.time(), rss=0))
        self._memory.step(step)

    # --- errors and waits

    def _refusal(self) -> errors.EngineUnavailable | None:
        """Why no job and no load is admitted now."""
        if self._closing:
            return _shutting_down()
        return self._unavailable() if self._lifecycle.backing_off else None

    def _retry_after(self) -> float:
        """Seconds until the next load may be tried, or until the present backlog is done."""
        return max(1.0, self._lifecycle.wait_s, min(60.0, self._jobs.scheduler.backlog_s / self._runner.rate))

    def _unavailable(self) -> errors.EngineUnavailable:
        return errors.EngineUnavailable(
            self._lifecycle.last_error or "the engine is not available", retry_after_s=self._retry_after()
        )


def _shutting_down() -> errors.EngineUnavailable:
    return errors.EngineUnavailable("the server is shutting down", retry_after_s=5)
