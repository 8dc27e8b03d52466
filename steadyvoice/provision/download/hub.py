"""What a hub is to the rest: a listing of a release's files and a way to get one of them. Knows no hub and no client."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LISTING_S = 10.0  # for everything before the first byte of a file: name lookup, connection, answer

# Of the clients, which read them when they are imported. What the user has set stays.
CLIENT_DEFAULTS = {
    "MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS": "2",  # of the listing; four would wait for 7 s with no network
    "MODELSCOPE_DOWNLOAD_TIMEOUT": "20",  # s without a byte before it tries again
    "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": "86400",  # s; an hour is too short for 0.9 GB on a slow line
    "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false",  # would ask the hub, then an address that the hub names, where this machine is
    "MODELSCOPE_LOG_LEVEL": "WARNING",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # would ask the hub for programs to look for on this machine, and tell it of them
}


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


def prepare_clients() -> None:
    """Set what the clients read of the environment. Once in a process, before the first download."""
    for name, value in CLIENT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ["NETRC"] = os.devnull  # no hub needs to know who we are
    if not sys.stderr.isatty():
        os.environ["TQDM_DISABLE"] = "1"  # bars fill a log


def removed_sentence(name: str, hub: str, wrong: str) -> str:
    """Of a file that was deleted since it is not as listed."""
    return f"{name} from {hub} was removed, {wrong}; the next start fetches it again"


def hex_digits(value: object, digits: int) -> str | None:
    """A checksum or commit as a hub writes it; None for anything else."""
    return value.lower() if isinstance(value, str) and re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", value) else None
