"""The dispatcher on a thread of its own, on the real clock. One engine is one model on one device."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from steadyvoice.engine.dispatcher import Dispatcher
from steadyvoice.engine.scheduler import Limits
from steadyvoice.engine.status import BatchReport, EngineStatus
from steadyvoice.engine.worker_policy import DEFAULT_POLICY, Policy
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.memory import MemoryLog

log = logging.getLogger(__name__)

# When the engine's thread has not turned its loop for so long, something is badly wrong: it never blocks longer than a heartbeat.
THREAD_STALL_S = 30.0


class Engine(Dispatcher):
    """See the module's docstring. `close()` it, or use it in a `with` statement."""

    def __init__(
        self,
        spec: WorkerSpec,
        limits: Limits,
        memory: MemoryLog | None = None,
        on_batch: Callable[[BatchReport], None] = lambda report: None,
        on_crash: Callable[[], None] = lambda: None,
        policy: Policy = DEFAULT_POLICY,
    ) -> None:
        """`on_crash` is called after a bug has ended the engine's thread and every ticket has failed."""
        self._wake_up = _WakeUpPipe()
        super().__init__(spec, limits, memory, on_batch, policy, wake=self._wake_up.wake)
        self.on_crash = on_crash
        self._beat = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"engine-{spec.engine}", daemon=True)
        self._thread.start()

    def status(self) -> EngineStatus:
        stalled = not self._thread.is_alive() or time.monotonic() - self._beat > THREAD_STALL_S
        return replace(super().status(), stalled=stalled)

    def close(self) -> None:
        """Stop the worker; every unresolved ticket gets EngineUnavailable. Returns when the worker is gone."""
        self._closing = True
        self._wake_up.wake()
        self._thread.join()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        crashed = True
        try:
            while not self._closing:
                self._beat = time.monotonic()
                self.step()
                self._sleep()
                self.receive()
            crashed = False
        finally:
            # Also on a bug in here: no caller may wait for a thread that has ended.
            self.end()
            self._wake_up.close()
            if crashed:
                log.critical("the engine's thread ended by a bug", exc_info=True)
                self.on_crash()

    def _sleep(self) -> None:
        """Until the worker sends something, a caller wakes the thread, or a timer is due."""
        sources = [self._wake_up.source] + ([self.worker.connection] if self.worker else [])
        if self._wake_up.source in wait(sources, min(self.next_timer_s(), THREAD_STALL_S / 3)):
            self._wake_up.drain()


class _WakeUpPipe:
    """Wait on `source` beside other connections; `wake` from any thread. Waking a closed one does nothing."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self.source = Connection(read, writable=False)
        self._lock = threading.Lock()
        self._open = True

    def wake(self) -> None:
        with self._lock:
            if self._open:
                try:
                    os.write(self._write, b"!")
                except BlockingIOError:
                    pass  # the pipe is full: the thread will wake up anyway

    def drain(self) -> None:
        os.read(self.source.fileno(), 4096)

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._write)
            self.source.close()
