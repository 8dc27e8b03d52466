"""Several workers on one device: they load one after the other, and none counts on what another has claimed.

Files in one folder are all there is to it, so that nobody has to run: a lock that the kernel lets go of when its holder dies, one
claim per worker that counts only while its process lives, and a note that asks whoever is idle to leave. Imports the standard
library only.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("steadyvoice.worker")

LOCK_WAIT_S = 300.0  # another model may be large; longer than that is a hung one
POLL_S = 0.1


class SharedDevice:
    """One worker's view of the folder. With no folder it has the device to itself."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        self._seen = time.time_ns()  # notes older than this worker are not meant for it

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Hold the device's lock while a model is loaded and measured."""
        if self._folder is None:
            yield
            return
        with (self._folder / "load.lock").open("a") as lock:
            until = time.monotonic() + LOCK_WAIT_S
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > until:
                        log.warning("another worker has been loading for %.0f s; going on beside it", LOCK_WAIT_S)
                        break
                    time.sleep(POLL_S)
            yield

    def claimed_by_others(self) -> int:
        """Bytes that other living workers may come to use beyond their weights."""
        total = 0
        for claim in self._claims():
            pid = int(claim.suffix[1:])
            if pid == os.getpid():
                continue
            if not _is_alive(pid):
                claim.unlink(missing_ok=True)
                continue
            try:
                total += int(claim.read_text(encoding="ascii"))
            except (OSError, ValueError):
                pass  # it is leaving, or has just come
        return total

    def claim(self, size: int) -> None:
        """Tell the others how many bytes this worker may come to use beyond what it holds now."""
        if self._folder is not None:
            (self._folder / f"claim.{os.getpid()}").write_text(str(size), encoding="ascii")

    def ask_others_to_leave(self, timeout_s: float) -> bool:
        """Whether the claims of others have become less within the time."""
        if self._folder is None or not (before := self.claimed_by_others()):
            return False
        note = self._folder / "please-leave"
        note.write_text(str(os.getpid()), encoding="ascii")
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            if self.claimed_by_others() < before:
                return True
            time.sleep(POLL_S)
        return False

    def is_asked_to_leave(self) -> bool:
        """Whether somebody has asked since this was last called."""
        if self._folder is None:
            return False
        note = self._folder / "please-leave"
        try:
            written, author = note.stat().st_mtime_ns, note.read_text(encoding="ascii")
        except OSError:
            return False
        if written <= self._seen or author == str(os.getpid()):
            return False
        self._seen = written
        return True

    def _claims(self) -> list[Path]:
        if self._folder is None:
            return []
        return [claim for claim in self._folder.glob("claim.*") if claim.suffix[1:].isdigit()]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
