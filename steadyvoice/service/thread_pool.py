"""The threads in which an app decodes, segments, encodes and finishes results. Long work runs in slices: first in, first out.

Without slices a short clip would wait until a thread has decoded a whole meeting, and cancelled work would run to its end. The
standard library's pool joins its threads at exit and has no bound on its queue. Knows nothing of what is done.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

from steadyvoice.errors import Overloaded
from steadyvoice.media.sliced_work import Steps

SLICE_S = 0.05  # after which a task goes to the end of the queue; its current step is finished first
MAX_WAITING = 256  # tasks
FULL_RETRY_S = 1.0

T = TypeVar("T")


class ThreadPool:
    """Daemon threads: they never keep a process from ending. `close()` cancels what waits."""

    def __init__(self, threads: int, max_waiting: int = MAX_WAITING) -> None:
        self._max_waiting = max_waiting
        self._waiting: deque[_Task[Any]] = deque()
        self._closed = False
        self._changed = threading.Condition()
        for index in range(threads):
            threading.Thread(target=self._work, name=f"host-{index}", daemon=True).start()

    async def run(self, function: Callable[[], T]) -> T:
        """Run a short function that blocks.

        A caller that is cancelled returns only when the function has: it may be reading a file that the caller will close.

        Raises:
            Overloaded: `max_waiting` tasks wait already.
        """
        return await self.run_sliced(_one_step(function))

    async def run_sliced(self, steps: Steps[T]) -> T:
        """Run long work in slices of about `SLICE_S`, other work between them; several at a time get equal shares.

        When the caller is cancelled, the work is closed after its current slice, and the caller returns then. Raises as `run`.
        """
        task = _Task(steps)
        with self._changed:
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{len(self._waiting)} tasks wait for a thread, which is the limit", retry_after_s=FULL_RETRY_S)
        self._queue(task)
        try:
            return await asyncio.wrap_future(task.result)
        except asyncio.CancelledError:
            self._stop(task)
            await _ended(task.result)
            raise

    def close(self) -> None:
        with self._changed:
            self._closed = True
            cancelled = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for task in cancelled:
            task.close()

    def _queue(self, task: _Task[Any]) -> None:
        with self._changed:
            if not self._closed:
                self._waiting.append(task)
                self._changed.notify()
                return
        task.close()

    def _stop(self, task: _Task[Any]) -> None:
        """Close a task: at once if it has not begun, else in its thread, since closing may take as long as a step."""
        task.stopped = True
        with self._changed:
            if task.begun or task not in self._waiting:
                return
            self._waiting.remove(task)
        task.close()

    def _next(self) -> _Task[Any] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return self._waiting.popleft() if self._waiting else None

    def _work(self) -> None:
        while (task := self._next()) is not None:
            if task.run_slice():
                self._queue(task)
            del task  # keep no result alive while waiting for the next task


class _Task(Generic[T]):
    """Work that is in the queue or in one of the threads, never in both, until `result` is done."""

    def __init__(self, steps: Steps[T]) -> None:
        self.result: Future[T] = Future()
        self.result.set_running_or_notify_cancel()  # so that it is done only when no thread runs the work any more
        self.begun = False
        self.stopped = False
        self._steps = steps

    def run_slice(self) -> bool:
        """Whether another slice is needed."""
        self.begun = True
        end = time.monotonic() + SLICE_S
        try:
            while not self.stopped:
                next(self._steps)
                if time.monotonic() >= end:
                    break
        except StopIteration as finished:
            self.result.set_result(finished.value)
            return False
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self.result.set_exception(error)
            return False
        if self.stopped:
            self.close()
        return not self.stopped

    def close(self) -> None:
        try:
            self._steps.close()
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self.result.set_exception(error)
        else:
            self.result.set_exception(CancelledError())


def _one_step(function: Callable[[], T]) -> Steps[T]:
    return function()
    yield


async def _ended(work: Future[T]) -> None:
    """Wait for work in a thread, whatever its outcome."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    work.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
