"""Several workers on one device: they load one after the other, and none counts on what another has claimed.

Only files in one folder, and no further process: a lock while a model loads, one claim per worker, and a
note that asks idle workers to leave. Locks are the kernel's: they end with the process that holds them, however it ends and in
whatever container it lives. Where the folder cannot be written a worker has the device to itself, and says so. Imports the
standard library only.
"""

from __future__ import annotations

import fcntl
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

log = logging.getLogger("steadyvoice.worker")

LOCK_WAIT_S = 300.0  # another model may be large; longer than that is a hung one
POLL_S = 0.1
NOTE = "please-leave"


class SharedDevice:
    """One worker's view of the folder. With no folder it has the device to itself."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._seen = time.time_ns()  # notes older than this worker are not meant for it
        self._me = secrets.token_hex(8)
        self._claim: IO[str] | None = None  # open and locked for as long as this worker lives
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                self._alone(error)

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Hold the lock while a model is loaded and measured."""
        lock = self._locked_to_load()
        try:
            yield
        finally:
            if lock is not None:
                lock.close()

    def claimed_by_others(self, device: str) -> int:
        """Bytes of `device` that other living workers may come to use beyond their weights."""
        return sum(size for _, size, name in self._others() if name == device)

    def claim(self, size: int, device: str) -> None:
        """Tell the others how many bytes of `device` this worker may come to use beyond what it holds now."""
        if self._folder is None:
            return
        try:
            if self._claim is None:
                self._claim = (self._folder / f"claim.{self._me}").open("w", encoding="utf-8")
                fcntl.flock(self._claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._claim.seek(0)
            self._claim.truncate()
            self._claim.write(f"{size} {device}")
            self._claim.flush()
        except OSError as error:
            self._alone(error)

    def ask_others_to_leave(self, timeout_s: float) -> bool:
        """Whether any of the others has left within the time."""
        before = {claim for claim, *_ in self._others()}
        if self._folder is None or not before:
            return False
        try:
            note = self._folder / f"{NOTE}.{self._me}"
            note.write_text(self._me, encoding="ascii")
            note.replace(self._folder / NOTE)  # whole from the first: seen empty and then written, it would be heard twice
        except OSError as error:
            self._alone(error)
            return False
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if before - {claim for claim, *_ in self._others()}:
                return True
            time.sleep(POLL_S)
        return False

    def is_asked_to_leave(self) -> bool:
        """Whether another worker has asked since this was last called."""
        if self._folder is None:
            return False
        note = self._folder / NOTE
        try:
            written, author = note.stat().st_mtime_ns, note.read_text(encoding="ascii", errors="replace")
        except OSError:
            return False
        if written <= self._seen or author == self._me:
            return False
        self._seen = written
        return True

    def _locked_to_load(self) -> IO[str] | None:
        if self._folder is None:
            return None
        try:
            lock = (self._folder / "load.lock").open("a", encoding="ascii")
        except OSError as error:
            self._alone(error)
            return None
        until = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > until:
                    log.warning("another worker has been loading for %.0f s; going on beside it", LOCK_WAIT_S)
                    return lock
                time.sleep(POLL_S)
            except OSError as error:  # a file system without locks
                self._alone(error)
                return lock

    def _others(self) -> list[tuple[str, int, str]]:
        """(name, bytes, device) of every claim whose worker lives; what a dead one has left is removed."""
        found = []
        for path in self._folder.glob("claim.*") if self._folder is not None else ():
            if path.name == f"claim.{self._me}":
                continue
            try:
                with path.open("r+", encoding="utf-8", errors="replace") as claim:
                    try:
                        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        size, _, device = claim.read().partition(" ")
                        found.append((path.name, int(size), device))
                    else:
                        path.unlink(missing_ok=True)
            except (OSError, ValueError):
                pass  # it is leaving, or has just come
        return found

    def _alone(self, error: OSError) -> None:
        log.warning("%s cannot be used (%s): other workers' memory is not known here", self._folder, error.strerror)
        self._folder = None
