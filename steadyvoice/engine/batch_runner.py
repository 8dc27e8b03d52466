"""The batch on the device: sends it, takes its answers, and settles the tickets that it answers or fails.

Knows one batch at a time and nothing of when a worker is started or stopped. Used by the thread that drives the dispatcher.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from steadyvoice import errors
from steadyvoice.engine.batch_budget import UNMEASURED
from steadyvoice.engine.jobs import Jobs, RunningBatch, settle_all
from steadyvoice.engine.scheduler import Work
from steadyvoice.engine.status import BatchReport
from steadyvoice.engine.tickets import Answer, Pending, item_error
from steadyvoice.engine.worker_policy import Policy
from steadyvoice.engine.worker_process import Worker
from steadyvoice.protocol import ProtocolError
from steadyvoice.protocol.messages import Aborted, Batch, Done, ItemFailed, Result
from steadyvoice.protocol.model_info import Failure
from steadyvoice.protocol.wire import can_be_sent

log = logging.getLogger(__name__)

FIRST_RATE = 10.0  # seconds of audio per second, until a batch has been measured
RATE_WEIGHT = 0.2  # of the newest batch in the running average


class BatchRunner:
    """See the module's docstring. Each message is checked as a whole before anything changes."""

    def __init__(
        self,
        jobs: Jobs,
        events: Counter[str],
        policy: Policy,
        clock: Callable[[], float],
        on_batch: Callable[[BatchReport], None],
        retry_after: Callable[[], float],
    ) -> None:
        """`on_batch` is called with every batch that ended well. `retry_after`: seconds, for errors that may pass."""
        self.running: RunningBatch | None = None
        self.rate = FIRST_RATE  # seconds of audio per second
        self.batches = self.largest_batch = 0
        self._jobs = jobs
        self._events = events
        self._policy = policy
        self._now = clock
        self._on_batch = on_batch
        self._retry_after = retry_after

    def send_next(self, worker: Worker) -> bool:
        """Send the next batch, if there is one. Returns False when it could not be encoded, and the rest waits again.

        Raises:
            WorkerGone: the worker has died.
        """
        running, payloads = self._jobs.next_batch()
        if running is None:
            return True
        self.running = running
        self.batches += 1
        self.largest_batch = max(self.largest_batch, len(running.works))
        try:
            worker.send(Batch(running.id, running.last_try, payloads))
        except ProtocolError as error:  # nothing was sent: the payloads are at fault, and the worker is healthy
            log.error("batch %d cannot be sent: %s", running.id, error)
            self.running = None
            bad = [work for work, payload in zip(running.works, payloads, strict=True) if not can_be_sent(payload)]
            failed = self._jobs.not_sent(running.works, bad)
            settle_all(failed, errors.ItemFailed("the request could not be handed to the engine"))
            return False
        return True

    def is_stuck(self, heartbeat_timeout_s: float) -> bool:
        """The batch makes no progress though heartbeats arrive: a call in the worker may never return."""
        running = self.running
        if running is None:
            return False
        silent_s = self._now() - running.since
        if silent_s >= self._policy.batch_limit_s + self._policy.slowness * running.padded_s / self.rate:
            return True
        # Earlier where no caller waits for it any more.
        return silent_s >= heartbeat_timeout_s and not self._jobs.are_pending(running.remaining)

    def item_answered(self, message: Result | ItemFailed) -> None:
        """Settle the item's ticket. Raises ProtocolError for an item that is not on the device."""
        running, index = self.running, message.index
        if running is None or message.batch != running.id or index not in running.unanswered:
            raise ProtocolError(f"an answer to item {index} of batch {message.batch}, which is not running")
        running.unanswered.remove(index)
        running.since = self._now()
        pending = self._jobs.finished(running.works[index])
        if pending is None:
            return
        if isinstance(message, Result):
            pending.settle(Answer(message.payload, pending.dispatched - pending.submitted, message.seconds))
        else:
            pending.settle(item_error(message.error, self._retry_after()))

    def end_batch(self, message: Done | Aborted) -> RunningBatch:
        """The batch that the message ends; it does not run any more. Raises ProtocolError for any other."""
        running = self.running
        if running is None or message.batch != running.id or bool(running.unanswered) != isinstance(message, Aborted):
            raise ProtocolError(f"{message.kind!r} for batch {message.batch}, which is not running or has other answers")
        self.running = None
        return running

    def settle_batch(self, running: RunningBatch, message: Done | Aborted) -> None:
        """What follows from the end of a batch for the tickets, the budget and the measured rate."""
        if isinstance(message, Done):
            self._done(running, message)
            return
        # The model failed on the unanswered items, and the worker lives: smaller batches of them may succeed.
        retried, failed = self._failed(running, message.failure)
        log.warning(
            "batch %d: %s; %d items will be tried again, %d failed",
            *(running.id, message.failure.value, len(retried), len(failed)),
        )
        error: errors.SteadyvoiceError = errors.ItemFailed("the engine failed on this item")
        if message.failure is Failure.OUT_OF_MEMORY:
            error = errors.OutOfMemory("the device has not enough memory for it now", retry_after_s=self._retry_after())
        settle_all(failed, error)

    def worker_died(self, running: RunningBatch, how: str, out_of_memory: bool) -> None:
        """The batch is tried again in parts; an item that was alone with two dying workers fails."""
        failure = Failure.OUT_OF_MEMORY if out_of_memory else Failure.DEATH
        retried, failed = self._failed(running, failure)
        log.warning("%d items will be tried again in a new worker, %d failed", len(retried), len(failed))
        error: errors.SteadyvoiceError = errors.WorkerDied(f"the worker {how} twice while it ran this request alone")
        if out_of_memory:
            error = errors.OutOfMemory("the machine ran out of memory", retry_after_s=self._retry_after())
        settle_all(failed, error)

    def _done(self, running: RunningBatch, message: Done) -> None:
        self._jobs.went_well()
        lengths = [work.length for work in running.works]
        self.rate += RATE_WEIGHT * (sum(lengths) / max(message.seconds, 1e-3) - self.rate)
        cost = self._jobs.scheduler.limits.budget.cost
        predicted = cost.bytes(len(lengths), max(lengths)) if cost != UNMEASURED else None
        try:
            self._on_batch(BatchReport(len(lengths), running.padded_s, message.seconds, predicted, message.used))
        except Exception:
            log.exception("an observer of batches failed")

    def _failed(self, running: RunningBatch, failure: Failure) -> tuple[Sequence[Work], list[Pending]]:
        """Count it. Returns the works that are tried again, and the tickets that have to be settled with an error."""
        retried, failed = self._jobs.failed(running, failure)
        match failure:
            case Failure.OUT_OF_MEMORY:
                self._events["oom_split" if len(retried) > 1 else "oom_refused" if failed else "oom_again"] += 1
            case Failure.ERROR:
                self._events["error_split"] += len(retried) > 1
            case Failure.DEATH:
                self._events["quarantined"] += len(failed)
        return retried, failed
