"""Files of a folder of voices: found, read, and written all or not at all. Knows nothing of what is in them."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from steadyvoice.errors import TooLarge

SUFFIXES = (".wav", ".flac", ".mp3")
MAX_FILE_BYTES = 50_000_000
UNFINISHED = ".unfinished-"  # prefix of files that are still being written


def find_recordings(folder: Path) -> list[tuple[Path, os.stat_result]]:
    """Recordings in a folder, in the order in which they came. Links are not followed, and hidden files are none."""
    found: list[tuple[Path, os.stat_result]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.name.lower().endswith(SUFFIXES):
                    with suppress(FileNotFoundError):  # removed since
                        found.append((Path(entry.path), entry.stat(follow_symlinks=False)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    regular = [(path, info) for path, info in found if stat.S_ISREG(info.st_mode)]
    return sorted(regular, key=lambda file: (file[1].st_mtime_ns, file[0].name))


def read_recording(path: Path) -> bytes:
    """Raises OSError, also for what has become a link, and TooLarge."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"the file has more than {MAX_FILE_BYTES} bytes, which is the limit", param="file")
    return data


def write_file(path: Path, data: bytes, mtime_ns: int | None = None) -> None:
    """All or nothing: there is never half a file at `path`, not after a crash either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(UNFINISHED + secrets.token_hex(8))
    try:
        with unfinished.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if mtime_ns is not None:
            os.utime(unfinished, ns=(mtime_ns, mtime_ns))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
