"""One app's folder of temporary files: uploads, what the pages offer for download, and files that are still being written.

No other user of the machine can read it, and no other app uses it. Its size is bounded and files that are no longer used are
deleted. It becomes Gradio's folder of files (`GRADIO_TEMP_DIR`) when the page is built, and Python's default for temporary
files when the app is served. Knows no HTTP and no Gradio. Thread-safe; methods that touch the disk say so.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
import stat
import tempfile
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from steadyvoice.errors import StorageFull
from steadyvoice.service.disk_full import storing

log = logging.getLogger(__name__)

FILES_KEPT_S = 3_600.0  # seconds since a file was last used
IN_USE_S = 300.0  # seconds since its last use in which a file is not deleted to make room
SWEEP_S = 300.0  # seconds between two sweeps
LEAST_BYTES = 16_384  # that a stored file counts for: a folder and a file take inodes and time to list, however small they are
DOWNLOAD_PREFIX = "download-"  # of folders in `kept` whose files are not uploads
PARENT = os.environ.get("GRADIO_TEMP_DIR")  # before it is set to the private folder


@dataclass
class _Stored:
    """A folder in `kept` with the files of one upload or one job."""

    n_bytes: int
    used: float  # seconds since 1970


class PrivateFolder:
    """`kept` holds complete files, each in a folder whose name cannot be guessed; `unfinished` holds the others."""

    def __init__(self, name: str, max_bytes: int, parent: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        """Makes the folder, or takes over that of an earlier run, without the files that it had not finished.

        Args:
            name: of the app, unique on this machine for this user: role and port.
            max_bytes: of all files in `kept`.
            parent: default: `GRADIO_TEMP_DIR`, else where temporary files go on this machine.
            clock: seconds since 1970, as in the times of files.

        Raises:
            OSError: it cannot be made.
        """
        self._parent = parent or Path(PARENT or tempfile.gettempdir())
        self._parent.mkdir(parents=True, exist_ok=True)
        self._prefix = f"steadyvoice-{os.geteuid()}-"
        self.path, lock = _claimed(self._parent, self._prefix + name)
        self.kept = self.path / "kept"
        self.unfinished = self.path / "unfinished"
        self._max_bytes = max_bytes
        self._now = clock
        self._reserved = 0  # bytes, for files that are being written
        self._kept_bytes = 0
        self._stored: OrderedDict[str, _Stored] = OrderedDict()  # the least recently used first
        self._lock = threading.Lock()
        self._close = weakref.finalize(self, _remove, self.path, lock)
        shutil.rmtree(self.unfinished, ignore_errors=True)
        self.ensure()
        self._take_over()
        self.sweep()

    def ensure(self) -> None:
        """Make again what another program has deleted, such as a cleaner of /tmp. Touches the disk. Raises OSError."""
        for folder in (self.path, self.kept, self.unfinished):
            with suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            if not _is_ours(os.lstat(folder)):
                raise PermissionError(f"{folder} belongs to another user")

    @contextmanager
    def room(self, n_bytes: int) -> Iterator[None]:
        """Reserve room for files that are written inside the block. The least recently used files are deleted for it, unless
        they were used within `IN_USE_S`. Touches the disk.

        Raises:
            StorageFull: there is not enough room; names the limit.
        """
        with self._lock:
            unused = self._unused(n_bytes)
            for name in unused:
                self._forget(name)
            self._reserved += n_bytes
        for name in unused:
            shutil.rmtree(self.kept / name, ignore_errors=True)
        try:
            yield
        finally:
            with self._lock:
                self._reserved -= n_bytes

    def keep(self, file: Path, name: str) -> Path:
        """Move a complete file out of `unfinished`, under a name that is safe already. Touches the disk. Raises OSError."""
        folder = self._new_folder()
        try:
            kept = file.rename(folder / name)
            self._note(folder.name, kept.stat().st_size)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return kept

    def write(self, contents: Mapping[str, bytes], what: str) -> list[Path]:
        """Keep new files for download together, by name: all of them or none. Touches the disk.

        Raises:
            StorageFull: the disk or the room is full; `what` names the files in the error.
        """
        n_bytes = sum(map(len, contents.values()))
        with self.room(n_bytes), storing(what):
            self.ensure()
            folder = self._new_folder(DOWNLOAD_PREFIX)
            try:
                for name, content in contents.items():
                    with open(folder / name, "xb", opener=_private) as file:
                        file.write(content)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            self._note(folder.name, n_bytes)
        return [folder / name for name in contents]

    def touch(self, file: Path) -> None:
        """A kept file is used now, so it stays for another `FILES_KEPT_S`. Raises FileNotFoundError."""
        name, now = self._folder_of(file), self._now()
        os.utime(file, (now, now))
        with self._lock:
            if (stored := self._stored.get(name)) is not None:
                stored.used = now
                self._stored.move_to_end(name)

    def discard(self, file: Path) -> None:
        """Delete a kept file, and what was kept together with it. Touches the disk."""
        name = self._folder_of(file)
        with self._lock:
            self._forget(name)
        shutil.rmtree(self.kept / name, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what was last used more than `FILES_KEPT_S` ago, also in folders of apps that ended. Touches the disk."""
        before = self._now() - FILES_KEPT_S
        for folder in (self.kept, self.unfinished):
            _delete_older(folder, before)
        with self._lock:
            for name in [name for name, stored in self._stored.items() if stored.used < before]:
                self._forget(name)
        for other in self._parent.glob(f"{self._prefix}*"):
            if (lock := _locked(other)) is not None:  # its app has ended
                try:
                    _delete_older(other, before)
                    with suppress(OSError):  # there is something in it
                        other.rmdir()
                finally:
                    os.close(lock)

    @property
    def kept_bytes(self) -> int:
        """All kept files together, small ones counted as `LEAST_BYTES`."""
        with self._lock:
            return self._kept_bytes

    def close(self) -> None:
        """Delete the folder. An app that is killed leaves it to its next run."""
        self._close()

    def _unused(self, n_bytes: int) -> list[str]:
        """What has to be deleted before so many bytes fit. Raises StorageFull if that is not enough."""
        names: list[str] = []
        missing, now = self._reserved + self._kept_bytes + n_bytes - self._max_bytes, self._now()
        for name, stored in self._stored.items():
            if missing <= 0 or stored.used > now - IN_USE_S:
                break
            names.append(name)
            missing -= stored.n_bytes
        if missing > 0:
            oldest = next((stored.used for name, stored in self._stored.items() if name not in names), now)
            raise StorageFull(
                f"no room for {n_bytes / 1e6:.1f} MB: {(self._reserved + self._kept_bytes) / 1e6:.1f} MB of files are stored or "
                f"arriving, and the limit is {self._max_bytes / 1e6:g} MB (STEADYVOICE_MAX_STORED_MB)",
                retry_after_s=max(1.0, oldest + IN_USE_S - now),
            )
        return names

    def _new_folder(self, prefix: str = "") -> Path:
        folder = self.kept / f"{prefix}{secrets.token_hex(16)}"
        os.mkdir(folder, 0o700)
        return folder

    def _note(self, name: str, n_bytes: int) -> None:
        with self._lock:
            self._add(name, n_bytes, self._now())

    def _add(self, name: str, n_bytes: int, used: float) -> None:
        self._stored[name] = _Stored(max(LEAST_BYTES, n_bytes), used)
        self._kept_bytes += self._stored[name].n_bytes

    def _forget(self, name: str) -> None:
        if (stored := self._stored.pop(name, None)) is not None:
            self._kept_bytes -= stored.n_bytes

    def _folder_of(self, file: Path) -> str:
        """Raises ValueError for what is not in `kept`."""
        return file.resolve().relative_to(self.kept.resolve()).parts[0]

    def _take_over(self) -> None:
        """Know the files of an earlier run: a page that is still open may use its uploads again."""
        found: list[tuple[float, str, int]] = []
        for folder in self.kept.iterdir():
            infos = [file.lstat() for file in folder.iterdir()] if folder.is_dir() else []
            found.append((max([info.st_mtime for info in infos], default=0.0), folder.name, sum(info.st_size for info in infos)))
        for used, name, n_bytes in sorted(found):
            self._add(name, n_bytes, used)


def _claimed(parent: Path, name: str) -> tuple[Path, int | None]:
    """A private folder that no running app uses, and the descriptor that holds its lock.

    The predictable name is taken only if it leads to a folder of this user that has never been open to others: anyone may put
    a link or a folder of their own at it, where the parent is /tmp.
    """
    path = parent / name
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    if (lock := _locked(path)) is not None:
        return path, lock
    path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
    log.info("the folder of temporary files is %s: another app or user has %s", path, name)
    if (lock := _locked(path)) is None:
        log.warning("the file system of %s has no permissions or no locks: other users may read it", path)
    return path, lock


def _locked(path: Path) -> int | None:
    """A descriptor that holds the folder's lock; None if another app holds it, or if it is no private folder of this user.

    The kernel drops the lock with the last descriptor, so with its process. systemd-tmpfiles leaves locked folders alone.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opened = os.fstat(descriptor)
        # Between `open` and `flock` another app may have deleted the folder.
        if _is_ours(opened) and not opened.st_mode & 0o077 and os.path.samestat(opened, os.lstat(path)):
            return descriptor
    except OSError:
        pass
    os.close(descriptor)
    return None


def _is_ours(info: os.stat_result) -> bool:
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()


def _remove(path: Path, lock: int | None) -> None:
    shutil.rmtree(path, ignore_errors=True)
    if lock is not None:
        os.close(lock)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _delete_older(folder: Path, before: float) -> None:
    """Delete files that were last changed before that time, and folders inside that are old and empty. No link is followed."""
    for root, _, names in os.walk(folder, topdown=False):
        with suppress(FileNotFoundError):  # a request has deleted it meanwhile
            old = os.lstat(root).st_mtime < before
            for name in names:
                file = os.path.join(root, name)
                with suppress(FileNotFoundError):
                    if os.lstat(file).st_mtime < before:
                        os.unlink(file)
                        old = True
            if old and Path(root) != folder:
                with suppress(OSError):  # a file in it is younger
                    os.rmdir(root)
