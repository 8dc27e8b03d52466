"""The life cycle of the one worker: when it may start, what state its model is in, how long to wait after a failure.

Used by the thread that drives the dispatcher; others only read it and set `load_requested`. Knows nothing of batches or tickets.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable
from concurrent.futures import Future

from steadyvoice.engine.worker_process import Worker, WorkerGone, WorkerSpec
from steadyvoice.protocol import ModelInfo
from steadyvoice.protocol.messages import Load

log = logging.getLogger(__name__)

FREE_DEATHS = 2  # in a row that cost no wait: one in a batch or while idle, one in the load after it
FIRST_BACKOFF_S = 1.0  # after a failed load or a further death in a row; doubles
LONGEST_BACKOFF_S = 30.0


class State(enum.Enum):
    """Of the model, as callers see it."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    BACKOFF = "backoff"  # the last load failed; the next is tried on demand after the backoff
    CLOSED = "closed"


class WorkerLifecycle:
    """See the module's docstring."""

    def __init__(self, spec: WorkerSpec, clock: Callable[[], float], spawn: Callable[[WorkerSpec], Worker]) -> None:
        self._spec = spec
        self._now = clock
        self._spawn = spawn
        self.worker: Worker | None = None
        self.model: ModelInfo | None = None
        self.state = State.UNLOADED
        self.load_requested = False  # the model was asked for before there is work
        self.loaded: Future[ModelInfo] = Future()  # of the load that is under way or will come next
        self.last_error: str | None = None
        self.loads = self.deaths = 0
        self._failures = 0  # in a row, of loads and of workers
        self._not_before = 0.0
        self._load_began = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds until a worker may be started; 0 when it may be now."""
        return max(0.0, self._not_before - self._now())

    @property
    def loading_s(self) -> float:
        """Seconds since the last load began."""
        return self._now() - self._load_began

    @property
    def backing_off(self) -> bool:
        """The last load failed a moment ago, so asking again now is of no use."""
        return self.state is State.BACKOFF and self.wait_s > 0

    @property
    def may_try_again(self) -> bool:
        """A few deaths may have a cause outside the worker; so many in a row do not."""
        return self._failures < FREE_DEATHS

    def start(self) -> str | None:
        """Start a worker and tell it to load. Returns why that was not possible, or None."""
        self.state = State.LOADING
        self._load_began = self._now()
        try:
            self.worker = self._spawn(self._spec)
            self.worker.send(Load())
        except (OSError, WorkerGone) as error:
            reason = error.strerror if isinstance(error, OSError) else error  # without the path of the interpreter
            return f"the worker process could not be started: {reason}"
        return None

    def became_ready(self, model: ModelInfo) -> None:
        self.model = model
        self.state = State.READY
        self.last_error = None
        self.loads += 1
        log.info("engine %s (%s) loaded in %.2f s", model.name, model.revision, self._now() - self._load_began)
        self.loaded.set_result(model)
        self.load_requested = False  # after it: who asked meanwhile has found it done

    def load_failed(self, reason: str) -> Future[ModelInfo]:
        """Back off. Returns the future of the failed load, which the engine fails with the error of all its callers."""
        self._remove()
        self.load_requested = False
        self.last_error = f"the model could not be loaded: {reason}"
        self._back_off()
        self.state = State.BACKOFF
        log.error("%s; next attempt in %.0f s at the earliest", self.last_error, self.wait_s)
        failed, self.loaded = self.loaded, Future()
        return failed

    def died(self, how: str, counts: bool = True) -> int | None:
        """The worker is gone, or is to go: a new one may start, at once after the first death, later after more in a row that
        count. Returns its exit status."""
        status = self._remove()
        log.error("worker %s (exit status %s)", how, status)
        self.deaths += 1
        self.last_error = f"the worker {how}"
        self._becomes_empty()
        if counts and self.may_try_again:
            self._failures += 1
        elif counts:
            self._back_off()
        return status

    def worked(self) -> None:
        """A batch came back: the next failure starts counting afresh."""
        self._failures = 0

    def leave(self, why: str) -> None:
        """The worker is well and goes; a new one may start at any time."""
        log.info("worker leaves: %s", why)
        if self.worker is not None:
            self.worker.stop()
        self.worker = self.model = None
        self._becomes_empty()

    def close(self) -> None:
        """End the worker politely."""
        self.state = State.CLOSED
        self.model = None
        if self.worker is not None:
            self.worker.stop()
            self.worker = None

    def _becomes_empty(self) -> None:
        if self.loaded.done():  # else callers still wait for it, and the next worker resolves it
            self.loaded = Future()
        self.state = State.UNLOADED

    def _remove(self) -> int | None:
        worker, self.worker, self.model = self.worker, None, None
        return worker.kill() if worker is not None else None

    def _back_off(self) -> None:
        self._not_before = self._now() + min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures, 10))
        self._failures += 1
