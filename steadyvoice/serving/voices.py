"""The voices that an engine may imitate: recordings in a folder, which users put there or send. Knows no HTTP and no engine.

A voice is a file `<name>.wav`, `.flac` or `.mp3`. What an engine reads is a prepared copy, named by the content of the recording:
engines keep what they know of a recording by its path, so one path must never mean two voices.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
import stat
import threading
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from steadyvoice.errors import Conflict, InvalidInput, NotFound, TooLarge
from steadyvoice.media.encode import AUDIO_FORMATS, encode
from steadyvoice.media.reference import MAX_S, MIN_S, REFERENCE_RATE, read_reference

log = logging.getLogger(__name__)

SUFFIXES = (".wav", ".flac", ".mp3")
MAX_FILE_BYTES = 50_000_000
MAX_VOICES = 1_000
MAX_NAME = 64  # characters
MAX_NAME_BYTES = 240  # of UTF-8: with a suffix no file system takes more than 255
NAMES_TOLD = 12  # in an error
NAME_RULE = f"a name has 1 to {MAX_NAME} letters, digits, -, _ and spaces, and is not digits only"
Origin = Literal["stored", "example"]
UNFINISHED = ".unfinished-"  # prefix of files that are still being written


@dataclass(frozen=True)
class Voice:
    """One voice, as found in a file."""

    name: str
    seconds: float  # of the recording, trimmed
    digest: str  # SHA-256 of the file
    origin: Origin
    created: float  # seconds since 1970
    problem: str | None = None  # why it cannot be used; such a voice is not listed


@dataclass(frozen=True)
class _Recording:
    """A file, and the voice that was found in it when it looked like this from outside."""

    path: Path
    info: os.stat_result
    voice: Voice

    def is_of(self, info: os.stat_result) -> bool:
        """Whether the file is still the same. The time of change tells of one that was put in its place with an old date."""
        return (info.st_mtime_ns, info.st_ctime_ns, info.st_size) == (
            self.info.st_mtime_ns,
            self.info.st_ctime_ns,
            self.info.st_size,
        )


class VoiceStore:
    """All voices. Its methods read and decode files, so they are for host threads; they may be called from many at once."""

    def __init__(self, folder: Path, examples: Path | None = None) -> None:
        """`folder` is made when the first voice is added. `examples` is only read; its voices are `voice_*.wav`."""
        self._folder = folder.absolute()
        self._prepared = self._folder / ".prepared"
        self._examples = examples.absolute() if examples else None
        self._recordings: tuple[_Recording, ...] = ()  # replaced as a whole
        self._told: set[str] = set()  # warnings
        self._looking = threading.RLock()  # one at a time looks at the folders or changes them
        self._holding = threading.Lock()  # for what borrowers do, who must not wait for somebody who looks
        self._borrowers: Counter[str] = Counter()  # by digest
        self._look()
        for file in (*self._folder.glob(f"{UNFINISHED}*"), *self._prepared.glob(f"{UNFINISHED}*")):
            file.unlink(missing_ok=True)
        for file in self._prepared.glob("*.wav"):
            self._tidy(file.stem)

    def voices(self) -> list[Voice]:
        """In the order in which they came, examples last: a new voice changes the number of no other stored one."""
        return list(self._usable().values())

    def find(self, speaker_id: str | int) -> Voice:
        """The voice of that number in the list, or of that name.

        Raises:
            InvalidInput: there is none, or its recording cannot be used.
        """
        asked = str(speaker_id).strip()
        is_number = asked.isascii() and asked.isdigit() and len(asked) < 6
        if not is_number:
            asked = checked_name(asked, "speaker_id")
        usable = self._usable()
        if is_number and int(asked) < len(usable):
            return list(usable.values())[int(asked)]
        if asked in usable:
            return usable[asked]
        for recording in self._recordings:
            if recording.voice.name == asked and recording.voice.problem is not None:
                raise InvalidInput(f"voice {asked!r} cannot be used: {recording.voice.problem}", param="speaker_id")
        raise InvalidInput(f"voice {asked!r} is unknown; {_known(list(usable))}", param="speaker_id")

    def get(self, name: str) -> Voice:
        """The voice of that name.

        Raises:
            InvalidInput: no voice can have that name.
            NotFound: none has it.
        """
        name = checked_name(name)
        try:
            return self._usable()[name]
        except KeyError:
            raise _not_found(name) from None

    def add(self, name: str, file: BinaryIO) -> Voice:
        """Keep a recording as a new voice. What is kept is trimmed, mono and of 16 bits.

        Args:
            name: see `NAME_RULE`.
            file: open and seekable, in any format that `media.decode` knows.

        Raises:
            Conflict: there is a voice of that name.
            TooLarge, UnsupportedMedia, InvalidInput: the name or the recording will not do.
        """
        name = checked_name(name)
        self._check_free(name)  # before the work
        size = file.seek(0, os.SEEK_END)
        if size > MAX_FILE_BYTES:
            raise TooLarge(f"the file has {size} bytes; the limit is {MAX_FILE_BYTES}", param="file")
        wav = _wav(file)
        with self._looking:
            self._check_free(name)
            stored = [recording for recording in self._recordings if recording.voice.origin == "stored"]
            if len(stored) >= MAX_VOICES:
                raise InvalidInput(f"there are {len(stored)} voices and that is the limit; remove one first")
            # Clocks of file systems are coarse: without this, two that come together would be in the order of their names.
            arrived = max([time.time_ns(), *(recording.info.st_mtime_ns + 1 for recording in stored)])
            _write(self._folder / f"{name}.wav", wav, arrived)
            return self.get(name)

    def remove(self, name: str) -> None:
        """Delete a voice, also one that cannot be used. Whoever has borrowed it keeps it until the end.

        Raises:
            NotFound: there is no voice of that name.
            InvalidInput: it is an example.
        """
        name = checked_name(name)
        with self._looking:
            self._look()
            named = [recording for recording in self._recordings if recording.voice.name == name]
            stored = [recording for recording in named if recording.voice.origin == "stored"]
            if not named:
                raise _not_found(name)
            if not stored:
                raise InvalidInput(f"voice {name!r} is an example and cannot be removed", param="name")
            for recording in stored:  # there may be a .wav and a .mp3 of one name
                recording.path.unlink(missing_ok=True)
            self._look()

    @contextmanager
    def borrow(self, voice: Voice) -> Iterator[Path]:
        """The prepared copy, which stays at its path while the block runs, even if the voice is removed meanwhile.

        The copy is made for the first borrower. Leaving is quick.

        Raises:
            NotFound: the voice was removed or changed since it was found.
        """
        with self._holding:
            self._borrowers[voice.digest] += 1
        try:
            yield self._prepare(voice)
        finally:
            with self._holding:
                self._borrowers[voice.digest] -= 1
            self._tidy(voice.digest)

    def _prepare(self, voice: Voice) -> Path:
        path = self._prepared / f"{voice.digest}.wav"
        if path.exists():
            return path
        gone = NotFound(f"voice {voice.name!r} was removed or changed a moment ago", param="speaker_id")
        for recording in self._recordings:
            if recording.voice.digest == voice.digest:
                try:
                    data = _read(recording.path)
                except (OSError, TooLarge):
                    raise gone from None
                if hashlib.sha256(data).hexdigest() != voice.digest:
                    raise gone
                _write(path, _wav(io.BytesIO(data)))
                return path
        raise gone

    def _tidy(self, digest: str) -> None:
        """Delete a prepared copy that has no recording and no borrower any more."""
        with self._holding:
            if self._borrowers[digest] > 0:
                return
            del self._borrowers[digest]
            if all(recording.voice.digest != digest for recording in self._recordings):
                (self._prepared / f"{digest}.wav").unlink(missing_ok=True)

    def _check_free(self, name: str) -> None:
        self._look()
        # A recording that cannot be used takes its name too: its file would be written over.
        if any(recording.voice.name == name for recording in self._recordings):
            raise Conflict(f"there is a voice {name!r} already; remove it first, or choose another name", param="name")

    def _usable(self) -> dict[str, Voice]:
        """By name, in order. Of two recordings with one name the older counts."""
        self._look()
        usable: dict[str, Voice] = {}
        for recording in self._recordings:
            if recording.voice.problem is None:
                usable.setdefault(recording.voice.name, recording.voice)
        return usable

    def _look(self) -> None:
        """Bring what is known up to date with the folders. A file that has not changed is not read again."""
        with self._looking:
            before = {recording.path: recording for recording in self._recordings}
            stored = _files(self._folder)
            if len(stored) > MAX_VOICES:
                self._warn_once(f"only the first {MAX_VOICES} voices are used")
            found = [self._recording(path, info, "stored", before) for path, info in stored[:MAX_VOICES]]
            examples = sorted(_files(self._examples)) if self._examples else []  # a checkout has no order of arrival
            found += [self._recording(path, info, "example", before) for path, info in examples if path.match("voice_*.wav")]
            self._recordings = tuple(recording for recording in found if recording is not None)
            after = {recording.voice.digest for recording in self._recordings}
            for recording in before.values():
                if recording.voice.digest not in after:
                    self._tidy(recording.voice.digest)

    def _recording(
        self, path: Path, info: os.stat_result, origin: Origin, before: Mapping[Path, _Recording]
    ) -> _Recording | None:
        """What is in a file; nothing if it cannot be read now."""
        known = before.get(path)
        if known is not None and known.is_of(info):
            return known
        name, seconds, digest, problem = path.stem, 0.0, "", None
        try:
            name = checked_name(name)
            data = _read(path)
            digest = hashlib.sha256(data).hexdigest()
            seconds = len(read_reference(io.BytesIO(data))) / REFERENCE_RATE
        except InvalidInput as error:
            problem = error.message
            self._warn_once(f"voice {path.name!r} cannot be used: {problem}")
        except OSError as error:  # may be over when somebody asks again, so it is not kept
            self._warn_once(f"voice {path.name!r} cannot be read: {error.strerror}")
            return None
        voice = Voice(name, seconds, digest, origin, info.st_mtime, problem)
        return _Recording(path, info, voice)

    def _warn_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", message)


def checked_name(name: str, param: str = "name") -> str:
    """NFC, without spaces around it. Raises InvalidInput for what no voice may be called."""
    composed = unicodedata.normalize("NFC", name).strip() if len(name) <= MAX_NAME_BYTES else ""
    if (
        not 1 <= len(composed) <= MAX_NAME
        or composed.isdigit()
        or not all(c in "-_ " or unicodedata.category(c)[0] in "LMN" for c in composed)
        or len(composed.encode()) > MAX_NAME_BYTES
    ):
        raise InvalidInput(f"{name[:MAX_NAME]!r} is no name of a voice; {NAME_RULE}", param=param)
    return composed


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no voice {name!r}", param="name")


def _known(names: Sequence[str]) -> str:
    if not names:
        return (
            f"there is no voice yet: put a recording of {MIN_S:g} to {MAX_S:g} s into the folder 'voices' of the cache hub, "
            "or send one to POST /v1/voices"
        )
    more = f" and {len(names) - NAMES_TOLD} more" if len(names) > NAMES_TOLD else ""
    return f"known: 0 to {len(names) - 1}, {', '.join(names[:NAMES_TOLD])}{more}"


# --- files


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
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


def _read(path: Path) -> bytes:
    """Raises OSError, also for what has become a link, and TooLarge."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW)) as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise TooLarge(f"the file has more than {MAX_FILE_BYTES} bytes, which is the limit", param="file")
    return data


def _wav(file: BinaryIO) -> bytes:
    return encode(read_reference(file), REFERENCE_RATE, AUDIO_FORMATS["wav"])


def _write(path: Path, data: bytes, mtime_ns: int | None = None) -> None:
    """All or nothing: nobody finds half a file at `path`, not after a crash either."""
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
