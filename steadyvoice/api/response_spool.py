"""Bytes between one that makes them and one that sends them: in memory, and beyond a megabyte in a temporary file.

So work is done as fast as the engine can, however slowly its answer is read. Knows no HTTP. Used on the event loop only; what is
written to the file at a time is small, and goes to the kernel's cache.
"""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
from collections import deque
from typing import IO

log = logging.getLogger(__name__)

MEMORY_BYTES = 1_000_000
FILE_BYTES = 256_000_000
BLOCK = 65_536  # bytes that are read from the file at a time


class Spool:
    """One writer, one reader. `close()` it."""

    def __init__(self, memory_bytes: int = MEMORY_BYTES, file_bytes: int = FILE_BYTES) -> None:
        self._memory_bytes, self._file_bytes = memory_bytes, file_bytes
        self._chunks: deque[bytes] = deque()  # older than what is in the file
        self._in_memory = 0
        self._file: IO[bytes] | None = None
        self._begin = self._end = 0  # of what is in the file and was not read
        self._ended = False
        self._written, self._read = asyncio.Event(), asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Add bytes. Waits for the reader only where neither memory nor disk has room."""
        while not (self._keep(data) or self._store(data)):
            self._read.clear()
            await self._read.wait()
        self._written.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._written.set()

    async def read(self) -> bytes:
        """Some of the oldest bytes, as soon as there are any. Empty at the end."""
        while not self._chunks and self._begin == self._end:
            if self._ended:
                return b""
            self._written.clear()
            await self._written.wait()
        data = self._take()
        self._read.set()
        return data

    def close(self) -> None:
        """Drop what is left, with the file."""
        self._chunks.clear()
        if self._file is not None:
            self._file.close()

    def _keep(self, data: bytes) -> bool:
        """In memory, unless older bytes are in the file."""
        fits = self._in_memory + len(data) <= self._memory_bytes or not self._chunks
        if self._begin != self._end or not fits:
            return False
        if data:
            self._chunks.append(data)
            self._in_memory += len(data)
        return True

    def _store(self, data: bytes) -> bool:
        """In the file, unless it is full or the disk is."""
        if self._end + len(data) > self._file_bytes:
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
            written = 0
            while written < len(data):
                written += os.pwrite(self._file.fileno(), data[written:], self._end + written)
        except OSError as error:
            log.warning("an answer waits for its reader, as it cannot be stored: %s", error.strerror)
            return False
        self._end += len(data)
        return True

    def _take(self) -> bytes:
        if self._chunks:
            data = self._chunks.popleft()
            self._in_memory -= len(data)
            return data
        assert self._file is not None
        data = os.pread(self._file.fileno(), min(BLOCK, self._end - self._begin), self._begin)
        if not data:
            raise OSError("a temporary file has lost its end")
        self._begin += len(data)
        if self._begin == self._end:
            self._begin = self._end = 0
            os.ftruncate(self._file.fileno(), 0)
        return data
