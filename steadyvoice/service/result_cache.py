"""Work after recognition, off the hot path: a bounded pool of daemon threads, and the finished results kept for a while.

The standard library's pool joins its threads at exit and its queue has no bound; this one has neither fault. Knows nothing of
transcripts.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from cachetools import LRUCache

from steadyvoice.errors import Overloaded

log = logging.getLogger(__name__)

T = TypeVar("T")
THREADS = 2
MAX_WAITING = 256


class PostProcessor:
    """`submit(function)` -> Future. Daemon threads: they never keep a process from ending."""

    def __init__(self, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        self._queue: queue.Queue[tuple[Future[Any], Callable[[], Any]] | None] = queue.Queue(max_waiting)
        self._threads = [threading.Thread(target=self._run, name=f"post-process-{i}", daemon=True) for i in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        """Raises Overloaded when `max_waiting` functions wait already."""
        future: Future[T] = Future()
        try:
            self._queue.put_nowait((future, function))
        except queue.Full:
            raise Overloaded(f"{self._queue.maxsize} results wait to be finished, which is the limit", retry_after_s=1) from None
        return future

    def close(self) -> None:
        """End the threads once what was submitted is done."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            future, function = task
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(function())
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                    future.set_exception(error)
            del task, future, function  # hold nobody's result while waiting for the next


class ResultCache(Generic[T]):
    """Least recently used results, bounded in bytes. Thread-safe."""

    def __init__(self, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._cache: LRUCache[Hashable, T] = LRUCache(maxsize=max(max_bytes, 1), getsizeof=size_of)
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> T | None:
        with self._lock:
            return self._cache.get(key)

    def put(self, key: Hashable, result: T) -> None:
        """A result larger than the whole cache is not kept."""
        with self._lock:
            try:
                self._cache[key] = result
            except ValueError:
                log.debug("a result is larger than the cache")

    @property
    def bytes(self) -> int:
        with self._lock:
            return int(self._cache.currsize)
