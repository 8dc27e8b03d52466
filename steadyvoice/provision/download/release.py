"""Downloads a release: lists it, fetches its files into a folder beside the final one, verifies them and renames the folder."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TypeVar

from steadyvoice.provision import hardware
from steadyvoice.provision.download import huggingface, modelscope
from steadyvoice.provision.download.hub import LISTING_S, FetchError, Hub, Listed, Listing, removed_sentence
from steadyvoice.provision.download.report import bytes_of, disk_error, files_of, local_fault, megabytes, progress, reason_of, say
from steadyvoice.provision.release_files import MANIFEST, Release, covers
from steadyvoice.settings import PREFIX

MAX_FILES = 100  # in the listing; a release has some twenty
DISK_MARGIN = 1.1

T = TypeVar("T")


def download(
    release: Release, folder: Path, source: str, problem: Callable[[], str | None], *, listing_s: float = LISTING_S
) -> None:
    """Download `release` into `folder` from the hub `source`, unless `problem` finds nothing wrong with what is there.

    Continues what an earlier call began. Waits while another process does the same. Asks the hub for a listing for at most
    `listing_s` seconds.

    Raises:
        FetchError: the hub, the network or the disk stands in the way; what has come so far is kept.
    """
    if problem() is None:
        return
    try:
        # ModelScope's client gets an empty home: it finds no token and no session of the user's there, and leaves none behind.
        with tempfile.TemporaryDirectory(prefix="steadyvoice-", ignore_cleanup_errors=True) as home:
            hub = modelscope.connect(release, Path(home)) if source == "modelscope" else huggingface.connect(release)
            try:
                listing = within(listing_s, hub.list_files)
            except Exception as error:  # a client can be broken in any way by what it is answered
                raise FetchError(f"{hub.title} gives no listing of {release.name}: {reason_of(error)}") from error
            wanted = _choose(release, listing.files, hub.title)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(folder.parent, release.name):
                if wrong := problem():
                    prepare_target(folder, wrong)
                    _download(release, hub, listing, wanted, folder)
    except OSError as error:
        raise disk_error(folder.parent, error) from error


def _choose(release: Release, files: dict[str, Listed], hub: str) -> dict[str, Listed]:
    """The files to fetch. Raises FetchError if the listing is not one to trust."""
    if len(files) > MAX_FILES:
        raise FetchError(f"{hub} lists {len(files)} files, more than the {MAX_FILES} that a release may have")
    for name in files:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or not name.isprintable():
            raise FetchError(f"{hub} lists {name!r}, which is no name of a file in a release")
    if missing := [entry for entry in release.files if not any(covers(entry, name) for name in files)]:
        raise FetchError(f"{hub} lists no {', '.join(missing)}")
    wanted = {name: files[name] for entry in release.files for name in files if covers(entry, name)}
    if empty := [name for name, listed in wanted.items() if listed.size <= 0]:
        raise FetchError(f"{hub} lists no size for {', '.join(empty)}")
    total = sum(listed.size for listed in wanted.values())
    if total > release.max_bytes:
        raise FetchError(f"{hub} lists {megabytes(total)}, more than the {megabytes(release.max_bytes)} that a release may have")
    if unproven := [name for name in release.weights if not wanted[name].sha256]:
        raise FetchError(
            f"{hub} lists no SHA-256 of {', '.join(unproven)}, "
            "and without it nothing tells whether the weights are the right ones"
        )
    return wanted


@contextmanager
def file_lock(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of the download of `name` into `folder`; the kernel gives it up when this process ends, however it does."""
    with (folder / f".{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another start is fetching {name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(release: Release, hub: Hub, listing: Listing, wanted: dict[str, Listed], folder: Path) -> None:
    """Download into the folder beside, verify, rename. The lock is held. Raises FetchError and OSError."""
    part = part_of(folder)
    part.mkdir(exist_ok=True)
    total = sum(listed.size for listed in wanted.values())
    to_come = total - min(total, bytes_of(release, part))
    free = hardware.free_disk_bytes(part)
    if free < to_come * DISK_MARGIN:
        raise FetchError(
            f"{release.name} needs {megabytes(to_come * DISK_MARGIN)} of free disk at {folder.parent}, "
            f"{megabytes(free)} are free: make room, or set {PREFIX}CACHE_HUB to a larger disk"
        )
    say(f"fetching {release.name} from {hub.title}: {megabytes(to_come)} of {megabytes(total)} are still to come")
    verified = {}
    with progress(release, part, total):
        for name, listed in wanted.items():
            try:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                listing.get(name, listed, part)
            except FetchError:
                raise
            except Exception as error:
                if fault := local_fault(error):
                    raise fault from error
                raise FetchError(f"{name} did not come from {hub.title}: {reason_of(error)}; the next start continues") from error
            verified[name] = {"size": listed.size, "sha256": _verify(part / name, listed, hub.title)}
    for name, path in files_of(release, part):  # that a client with other settings left
        if name not in wanted:
            path.unlink()
    draft = part / f"{MANIFEST}.tmp"
    draft.write_text(json.dumps({"source": hub.source, "revision": listing.revision, "files": verified}, indent=2) + "\n")
    draft.rename(part / MANIFEST)
    part.rename(folder)
    say(f"{release.name}, revision {listing.revision}, is in {folder}")


def part_of(folder: Path) -> Path:
    """Where the files of a release lie until it is whole."""
    return folder.with_name(f".{folder.name}.part")


def prepare_target(folder: Path, problem: str) -> None:
    """Clear the final place. Raises FetchError if what is there is not ours to move."""
    part = part_of(folder)
    if not folder.exists():
        return
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    elif (folder / MANIFEST).is_file():
        # Fetched, and damaged since. Its good files need not come again.
        shutil.rmtree(part, ignore_errors=True)
        folder.rename(part)
        (part / MANIFEST).unlink()
    else:
        raise FetchError(f"{problem}, and this program did not put it there: complete it, or remove it")


def _verify(path: Path, listed: Listed, hub: str) -> str:
    """The SHA-256 of a file that is as listed. One that is not is removed. Raises FetchError."""
    sha256, git_sha1 = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % listed.size, usedforsecurity=False)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while block := file.read(1 << 20):
            sha256.update(block)
            if listed.git_sha1:
                git_sha1.update(block)
    found = sha256.hexdigest()
    if size != listed.size:
        wrong = f"it has {size} bytes, {listed.size} are listed"
    elif listed.sha256 and found != listed.sha256:
        wrong = f"its SHA-256 begins with {found[:12]}, {listed.sha256[:12]} is listed"
    elif listed.git_sha1 and git_sha1.hexdigest() != listed.git_sha1:
        wrong = f"its Git SHA-1 begins with {git_sha1.hexdigest()[:12]}, {listed.git_sha1[:12]} is listed"
    else:
        return found
    path.unlink()
    raise FetchError(removed_sentence(path.name, hub, wrong))


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, which is not awaited for longer than `seconds`: clients put no limit on a name lookup.

    Raises what `call` raises, and TimeoutError.
    """
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is raised again where the result is awaited
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError as error:
        if result.done():
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {seconds:g} s") from error
