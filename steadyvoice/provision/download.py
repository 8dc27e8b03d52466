"""Brings a release to this machine; run by itself, that of SenseVoiceSmall before the speech-to-text app starts.

`python -m steadyvoice.provision.download` fetches it from ModelScope or Hugging Face (`STEADYVOICE_HUB`) with the hub's own
client, into a folder beside the final one that is kept between attempts. Only when every file has the size and checksum that
the hub listed is a manifest written and the folder renamed into place: half a download never looks whole. With the release in
place nothing is connected to. A process of its own: no app imports it, nor the clients that it loads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from steadyvoice.provision import hardware
from steadyvoice.provision.release_files import MANIFEST, SENSEVOICE, Release, covers, is_wanted, release_dir, release_problem
from steadyvoice.settings import PREFIX, Settings, SettingsError, load_settings

BRANCH = "master"  # of ModelScope, whose listing is not of one commit

LISTING_S = 10.0  # for everything before the first byte of a file: name lookup, connection, answer
MAX_FILES = 100  # in the listing; a release has some twenty
DISK_MARGIN = 1.1
REPORT_S = 5.0  # between two lines of progress where there is no terminal
EXIT_PROBLEM = 2
EXIT_INTERRUPTED = 130
LOCAL_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR})

# Of the clients, which read them when they are imported. What the user has set stays.
CLIENT_DEFAULTS = {
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",  # of the listing; four would wait for 7 s with no network
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "20",  # s without a byte before it tries again
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": "86400",  # s; an hour is too short for 0.9 GB on a slow line
    "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",  # would ask the hub, then an address that the hub names, where this machine is
    "MODELSCOPE_LOG_LEVEL": "WARNING",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # would ask the hub for programs to look for on this machine, and tell it of them
}


T = TypeVar("T")


class FetchError(Exception):
    """The release could not be brought. The message is one sentence."""


@dataclass(frozen=True)
class Listed:
    """One file as the hub lists it: bytes and checksums, of which either may be missing."""

    size: int
    sha256: str | None
    git_sha1: str | None = None  # of the blob, which is what Hugging Face lists of small files


@dataclass(frozen=True)
class Listing:
    """What a hub has, and how to get one of its files: `get(name, listed, folder)` leaves it in the folder, and resumes."""

    revision: str
    files: dict[str, Listed]
    get: Callable[[str, Listed, Path], None]


@dataclass(frozen=True)
class Hub:
    """A hub, with the address that its client would use."""

    source: str
    title: str
    list_files: Callable[[], Listing]


def fetch(settings: Settings, *, listing_s: float = LISTING_S) -> None:
    """Bring SenseVoiceSmall into `cache_hub`, unless it is there or the settings want none of it. Raises as `bring`."""
    folder = release_dir(settings)
    if is_wanted(settings):
        bring(SENSEVOICE, folder, settings.hub, lambda: release_problem(folder), listing_s=listing_s)


def bring(
    release: Release, folder: Path, source: str, problem: Callable[[], str | None], *, listing_s: float = LISTING_S
) -> None:
    """Bring `release` into `folder` from the hub `source`, unless `problem` finds nothing wrong with what is there.

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
            hub = _modelscope(release, Path(home)) if source == "modelscope" else _huggingface(release)
            try:
                listing = _within(listing_s, hub.list_files)
            except Exception as error:  # a client can be broken in any way by what it is answered
                raise FetchError(f"{hub.title} gives no listing of {release.name}: {_why(error)}") from error
            wanted = _choose(release, listing.files, hub.title)
            folder.parent.mkdir(parents=True, exist_ok=True)
            with alone(folder.parent, release.name):
                if wrong := problem():
                    _make_way(folder, wrong)
                    _bring(release, hub, listing, wanted, folder)
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
        raise FetchError(f"{hub} lists {_mb(total)}, more than the {_mb(release.max_bytes)} that a release may have")
    if unproven := [name for name in release.weights if not wanted[name].sha256]:
        raise FetchError(
            f"{hub} lists no SHA-256 of {', '.join(unproven)}, "
            "and without it nothing tells whether the weights are the right ones"
        )
    return wanted


@contextmanager
def alone(folder: Path, name: str) -> Iterator[None]:
    """Hold the lock of what brings `name` into `folder`; the kernel gives it up when this process ends, however it does."""
    with (folder / f".{name}.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"another start is fetching {name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _bring(release: Release, hub: Hub, listing: Listing, wanted: dict[str, Listed], folder: Path) -> None:
    """Download into the folder beside, verify, rename. The lock is held. Raises FetchError and OSError."""
    part = part_of(folder)
    part.mkdir(exist_ok=True)
    total = sum(listed.size for listed in wanted.values())
    to_come = total - min(total, _bytes_of(release, part))
    free = hardware.free_disk_bytes(part)
    if free < to_come * DISK_MARGIN:
        raise FetchError(
            f"{release.name} needs {_mb(to_come * DISK_MARGIN)} of free disk at {folder.parent}, {_mb(free)} are free: "
            f"make room, or set {PREFIX}CACHE_HUB to a larger disk"
        )
    _say(f"fetching {release.name} from {hub.title}: {_mb(to_come)} of {_mb(total)} are still to come")
    verified = {}
    with _progress(release, part, total):
        for name, listed in wanted.items():
            try:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                listing.get(name, listed, part)
            except FetchError:
                raise
            except Exception as error:
                if fault := _local_fault(error):
                    raise fault from error
                raise FetchError(f"{name} did not come from {hub.title}: {_why(error)}; the next start continues") from error
            verified[name] = {"size": listed.size, "sha256": _verify(part / name, listed, hub.title)}
    for name, path in _pieces(release, part):  # that a client with other settings left
        if name not in wanted:
            path.unlink()
    draft = part / f"{MANIFEST}.tmp"
    draft.write_text(json.dumps({"source": hub.source, "revision": listing.revision, "files": verified}, indent=2) + "\n")
    draft.rename(part / MANIFEST)
    part.rename(folder)
    _say(f"{release.name}, revision {listing.revision}, is in {folder}")


def part_of(folder: Path) -> Path:
    """Where the files of a release lie until it is whole."""
    return folder.with_name(f".{folder.name}.part")


def _make_way(folder: Path, problem: str) -> None:
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
    raise FetchError(_removed(path.name, hub, wrong))


def _removed(name: str, hub: str, wrong: str) -> str:
    return f"{name} from {hub} was removed, {wrong}; the next start fetches it again"


# The two hubs


def _modelscope(release: Release, home: Path) -> Hub:
    # Not `modelscope` itself, which is this client and some more: that imports torch, in 1 s and more.
    from modelscope_hub import HubApi, HubConfig
    from modelscope_hub.errors import FileIntegrityError

    repository = release.repositories["modelscope"]
    # An empty token is none, wherever one might be found.
    config = HubConfig(token="", config_dir=home, cache_dir=home)
    title = f"ModelScope at {config.endpoint}"

    def list_files() -> Listing:
        api = HubApi(config)
        # Not api.list_repo_files: it leaves out the commits.
        entries = api.legacy.list_repo_files(repository, "model", revision=BRANCH)
        found = {str(entry["Path"]): entry for entry in entries if entry.get("Type") != "tree"}
        files = {name: Listed(int(entry["Size"]), _hex(entry.get("Sha256"), 64)) for name, entry in found.items()}
        # The latest commit that changed what we fetch names it better than the branch, which moves on.
        ours = (entry for name, entry in found.items() if release.wants(name))
        latest = max(ours, key=lambda entry: entry.get("CommittedDate") or 0, default={})

        def get(name: str, listed: Listed, folder: Path) -> None:
            try:
                api.download_file(
                    repository,
                    "model",
                    name,
                    revision=BRANCH,
                    local_dir=folder,
                    expected_sha256=listed.sha256,
                    file_size=listed.size,
                )
            except FileIntegrityError as error:  # after three attempts; the client has removed the file
                raise FetchError(_removed(name, title, "it has not the size or the SHA-256 that is listed")) from error

        return Listing(_hex(latest.get("Revision"), 40) or BRANCH, files, get)

    return Hub(f"modelscope:{repository}", title, list_files)


def _huggingface(release: Release) -> Hub:
    from huggingface_hub import HfApi, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    repository = release.repositories["huggingface"]
    api = HfApi(token=False)
    title = f"Hugging Face at {api.endpoint}"

    def list_files() -> Listing:
        info = api.model_info(repository, files_metadata=True, timeout=LISTING_S)
        revision = _hex(info.sha, 40)
        if revision is None:
            raise ValueError("it names no commit")
        files = {
            str(entry.rfilename): Listed(
                int(entry.size or 0),
                _hex(entry.lfs.sha256, 64) if entry.lfs else None,
                None if entry.lfs else _hex(entry.blob_id, 40),
            )
            for entry in info.siblings or []
        }

        def get(name: str, listed: Listed, folder: Path) -> None:
            # Not hf_hub_download: in this version it begins anew in every process, and throws away what it has.
            target, unfinished = folder / name, folder / f"{name}.incomplete"
            if target.exists():
                return  # _verify looks at it
            url = hf_hub_url(repository, name, revision=revision, endpoint=api.endpoint)
            headers = {"Accept-Encoding": "identity"}  # and so no token
            if unfinished.exists() and unfinished.stat().st_size > listed.size:
                unfinished.unlink()
            try:
                with _Limited(unfinished, listed.size) as file:
                    if file.tell() < listed.size:
                        http_get(url, file, resume_size=file.tell(), headers=headers, displayed_filename=name)
            except HfHubHTTPError as error:
                if error.response.status_code == 416:  # the file ends before our part of it does
                    unfinished.unlink()
                raise
            unfinished.rename(target)

        return Listing(revision, files, get)

    return Hub(f"huggingface:{repository}", title, list_files)


class _Limited(io.BufferedWriter):
    """A file that is appended to and does not grow over `limit` bytes: this client would write all that it is sent."""

    def __init__(self, path: Path, limit: int) -> None:
        super().__init__(io.FileIO(path, "a"))
        self.limit = limit

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > self.limit:
            raise FetchError(f"more than the {self.limit} bytes that are listed came for {Path(str(self.raw.name)).stem}")  # type: ignore[attr-defined]
        return super().write(data)


def _hex(value: object, digits: int) -> str | None:
    """A checksum or commit as a hub writes it; None for anything else."""
    return value.lower() if isinstance(value, str) and re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value) else None


# What is told


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of `call`, which is left to itself after `seconds`: clients bound a connection, nobody bounds a name lookup.

    Raises what `call` raises, and TimeoutError.
    """
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # noqa: BLE001  # it is raised again by the one who waits
            result.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        return result.result(seconds)
    except TimeoutError as error:
        if result.done():
            raise
        raise TimeoutError(errno.ETIMEDOUT, f"no answer within {seconds:g} s") from error


def _why(error: BaseException) -> str:
    """What lies beneath a client's error: the answer's status, else the system's word, else the client's own first line."""
    said = next(iter(str(error).splitlines()), "")
    words = f"{type(error).__name__}: {''.join(filter(str.isprintable, said))[:200]}"
    for cause in _causes(error):
        status = getattr(cause, "status_code", None) or getattr(getattr(cause, "response", None), "status_code", None)
        if status:
            return f"it answers {status}"
        if isinstance(cause, OSError) and cause.strerror:
            words = cause.strerror
    return words


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what lies beneath it, each once: the chain of a client that raises an old error again is a ring."""
    cause: BaseException | None = error
    seen: list[BaseException] = []
    while cause is not None and cause not in seen:
        yield cause
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__


def _local_fault(error: BaseException) -> OSError | None:
    """The error of this machine's disk beneath a client's."""
    return next((cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno in LOCAL_FAULTS), None)


def disk_error(cache_hub: Path, error: OSError) -> FetchError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FetchError(
            f"the disk at {cache_hub} is full: make room, or set {PREFIX}CACHE_HUB to a larger disk; what has come is kept"
        )
    return FetchError(f"{error.filename or cache_hub} cannot be written: {error.strerror or error}")


@contextmanager
def _progress(release: Release, part: Path, total: int) -> Iterator[None]:
    """A line now and then where nobody watches a terminal; on one, the clients draw bars."""
    ended = threading.Event()

    def report() -> None:
        while not ended.wait(REPORT_S):
            try:
                _say(f"{_mb(min(total, _bytes_of(release, part)))} of {_mb(total)} are here")
            except OSError:
                pass  # a file got its final name while it was looked at

    if not sys.stderr.isatty():
        threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _pieces(release: Release, part: Path) -> Iterator[tuple[str, Path]]:
    """The files of a release that lie in `part`, finished or not; what else lies there is not its own."""
    for path in part.rglob("*"):
        name = path.relative_to(part).as_posix()
        if name.startswith(release.files) and path.is_file():
            yield name, path


def _bytes_of(release: Release, part: Path) -> int:
    return sum(path.stat().st_size for _, path in _pieces(release, part))


def _mb(amount: float) -> str:
    return f"{amount / 1e6:.1f} MB"


def _say(sentence: str) -> None:
    print(f"hub: {sentence}", file=sys.stderr, flush=True)  # noqa: T201


def prepare_clients() -> None:
    """Set what the clients read of the environment. Once in a process, before the first `bring`."""
    for name, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ["NETRC"] = os.devnull  # no hub needs to know who we are
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # bars fill a log


def main() -> int:
    """0: the release is here, or is not needed; 2: it was asked for and is not here, or a setting is wrong."""
    prepare_clients()
    try:
        settings = load_settings()
        fetch(settings)
    except SettingsError as error:
        _say(str(error).replace("\n", "\nhub: "))
        return EXIT_PROBLEM
    except FetchError as error:
        if settings.asr_engine == "auto":
            _say(f"{error}; going on with the embedded recogniser")
            return 0
        _say(f"{error}; {PREFIX}ASR_ENGINE={settings.asr_engine} cannot work without it")
        return EXIT_PROBLEM
    except KeyboardInterrupt:
        _say("interrupted; the next start continues")
        return EXIT_INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
