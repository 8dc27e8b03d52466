"""The threads in which an app decodes, segments and encodes. Long work takes turns in slices: first in, first out.

Without slices a short clip would wait until a thread has decoded a whole meeting, and work whose caller has gone would go on
to its end. Knows nothing of what is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from steadyvoice.media.steps import Steps

SLICE_S = 0.05  # after which work goes to the end of the queue, with the step that it is in

T = TypeVar("T")


class HostThreads:
    """A pool of threads. `close()` cancels what waits."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="host")

    async def run(self, function: Callable[[], T]) -> T:
        """Run a short function that blocks.

        A caller that is cancelled leaves only when the thread has: it may be reading an upload that the caller will close.
        """
        work = self._pool.submit(function)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            if not work.cancel():
                await _ended(work)
            raise

    async def run_sliced(self, steps: Steps[T]) -> T:
        """Run long work in slices of about `SLICE_S`, other work between them. Of several at a time each gets the same share.

        When the caller is cancelled, the work is closed after the slice that it is in. The caller leaves then, as in `run`.
        """
        work = _Sliced(self._pool, steps)
        try:
            return await asyncio.wrap_future(work.result)
        except asyncio.CancelledError:
            work.stop()
            await _ended(work.result)
            raise

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Sliced(Generic[T]):
    """Work that is in the pool's queue or in one of its threads, never in both, until `result` is done."""

    def __init__(self, pool: ThreadPoolExecutor, steps: Steps[T]) -> None:
        self.result: Future[T] = Future()
        self.result.set_running_or_notify_cancel()  # so that it is done only when no thread is in the work any more
        self._pool = pool
        self._steps = steps
        self._stopped = False
        self._queue()

    def stop(self) -> None:
        """Close the work before its next step."""
        self._stopped = True

    def _queue(self) -> None:
        try:
            self._pool.submit(self._slice).add_done_callback(self._note_slice)
        except RuntimeError:  # the pool is closed
            self._close()

    def _slice(self) -> None:
        end = time.monotonic() + SLICE_S
        try:
            while not self._stopped:
                next(self._steps)
                if time.monotonic() >= end:
                    break
        except StopIteration as finished:
            self.result.set_result(finished.value)
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            self.result.set_exception(error)
        else:
            if self._stopped:
                self._close()
            else:
                self._queue()

    def _note_slice(self, done: Future[None]) -> None:
        if done.cancelled():  # by the pool, which is closed
            self._close()

    def _close(self) -> None:
        try:
            self._steps.close()
        finally:
            self.result.set_exception(CancelledError())


async def _ended(work: Future[T]) -> None:
    """Wait for work in a thread, whatever its outcome."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    work.add_done_callback(lambda _: loop.call_soon_threadsafe(ended.set))
    await ended.wait()
