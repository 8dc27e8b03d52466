"""What is told of a download: progress, and why it failed."""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steadyvoice.provision.download.hub import FetchError
from steadyvoice.provision.release_files import Release
from steadyvoice.settings import PREFIX

REPORT_S = 5.0  # between two lines of progress where there is no terminal
LOCAL_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR})


def reason_of(error: BaseException) -> str:
    """What lies beneath a client's error: the answer's status, else the system's word, else the client's own first line."""
    said = next(iter(str(error).splitlines()), "")
    words = f"{type(error).__name__}: {''.join(filter(str.isprintable, said))[:200]}"
    for cause in causes(error):
        status = getattr(cause, "status_code", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if status:
            return f"it answers {status}"
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
    return words


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what lies beneath it, each once: the chain of a client that raises an old error again is a ring."""
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def local_fault(error: BaseException) -> OSError | None:
    """The error of this machine's disk beneath a client's."""
    return next((cause for cause in causes(error) if isinstance(cause, OSError) and cause.errno in LOCAL_FAULTS), None)


def disk_error(cache_hub: Path, error: OSError) -> FetchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(
            f"the disk at {cache_hub} is full: make room, or set {PREFIX}CACHE_HUB to a larger disk; what has come is kept"
        )
    return FetchError(f"{error.filename or cache_hub} cannot be written: {error.strerror or error}")


@contextmanager
def progress(release: Release, part: Path, total: int) -> Iterator[None]:
    """A line from time to time where the output is no terminal; on a terminal the clients draw bars."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(REPORT_S):
            try:
                say(f"{megabytes(min(total, bytes_of(release, part)))} of {megabytes(total)} are here")
            except OSError:
                pass  # a file got its final name while it was looked at

    if not sys.stderr.isatty():
        threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def files_of(release: Release, part: Path) -> Iterator[tuple[str, Path]]:
    """The files of a release that lie in `part`, finished or not; what else lies there is not its own."""
    for path in part.rglob("*"):
        name = path.relative_to(part).as_posix()
        if name.startswith(release.files) and path.is_file():
            yield name, path


def bytes_of(release: Release, part: Path) -> int:
    return sum(path.stat().st_size for _, path in files_of(release, part))


def megabytes(amount: float) -> str:
    return f"{amount / 1e6:.1f} MB"


def say(sentence: str) -> None:
    print(f"hub: {sentence}", file=sys.stderr, flush=True)  # noqa: T201
