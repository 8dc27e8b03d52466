"""Wakes a thread that waits on connections."""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection


class Alarm:
    """Wait on `source` beside other connections; `ring` from any thread. Ringing a closed one does nothing."""

    def __init__(self) -> None:
        read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self.source = Connection(read, writable=False)
        self._lock = threading.Lock()
        self._open = True

    def ring(self) -> None:
        with self._lock:
            if self._open:
                try:
                    os.write(self._write, b"!")
                except BlockingIOError:
                    pass  # the pipe is full of rings: one more says nothing new

    def quiet(self) -> None:
        os.read(self.source.fileno(), 4096)

    def close(self) -> None:
        with self._lock:
            self._open = False
            os.close(self._write)
            self.source.close()
