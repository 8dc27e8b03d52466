"""Finished results, kept for a while. Knows nothing of transcripts and of speech."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from cachetools import LRUCache

log = logging.getLogger(__name__)

T = TypeVar("T")


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
