"""The voices that an engine may imitate: recordings in a folder, which users put there or send. Knows no HTTP and no engine.

A voice is a file `<name>.wav`, `.flac` or `.mp3`. What an engine reads is a prepared copy, named by the content of the recording:
engines keep what they know of a recording by its path, so one path must never mean two voices.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal

from steadyvoice.engine_specs import OPENAI_VOICES
from steadyvoice.errors import Conflict, InvalidInput, NotFound, TooLarge
from steadyvoice.media.encode import AUDIO_FORMATS, encode
from steadyvoice.media.reference import MAX_S, MIN_S, REFERENCE_RATE, read_reference, reference_steps
from steadyvoice.media.sliced_work import Steps, complete
from steadyvoice.service.disk_full import storing
from steadyvoice.service.voices.files import MAX_FILE_BYTES, UNFINISHED, find_recordings, read_recording, write_file
from steadyvoice.service.voices.names import checked_name, reserved
from steadyvoice.service.voices.speaker_numbers import Registry, VoiceNumbers

log = logging.getLogger(__name__)

MAX_VOICES = 1_000
MAX_DIGITS = 10  # of a number
NAMES_TOLD = 12  # in an error
Origin = Literal["stored", "example"]


@dataclass(frozen=True)
class Voice:
    """One voice, as found in a file."""

    name: str
    seconds: float  # of the recording, trimmed
    digest: str  # SHA-256 of the file
    origin: Origin
    created: float  # seconds since 1970
    problem: str | None = None  # why it cannot be used; such a voice is not listed
    number: int = -1  # its own for ever; a voice that is not listed has none
    aliases: tuple[str, ...] = ()  # OpenAI's names that it stands in for


@dataclass(frozen=True)
class _Recording:
    """A file, and the voice that was found in it when it looked like this from outside."""

    path: Path
    info: os.stat_result
    voice: Voice

    def is_of(self, info: os.stat_result) -> bool:
        """Whether the file is still the same. The time of change tells of one that was put in its place with an old date."""
        known, now = ((i.st_mtime_ns, i.st_ctime_ns, i.st_size) for i in (self.info, info))
        return known == now


class VoiceStore:
    """All voices. Its methods read and decode files, so they are for host threads; they may be called from many at once."""

    def __init__(self, folder: Path, examples: Path | None = None) -> None:
        """`folder` is made when the first voice is added. `examples` is only read; its voices are `voice_*.wav`."""
        self._folder = folder.absolute()
        self._prepared = self._folder / ".prepared"
        self._examples = examples.absolute() if examples else None
        self._recordings: tuple[_Recording, ...] = ()  # replaced as a whole
        self._numbers = VoiceNumbers(self._folder)
        self._registry = Registry()  # replaced as a whole
        self._told: set[str] = set()  # warnings
        self._looking = threading.RLock()  # one at a time looks at the folders or changes them
        self._holding = threading.Lock()  # guards borrowing alone, so that it does not wait while the folder is read
        self._borrowers: Counter[str] = Counter()  # by digest
        self._look()
        for file in (*self._folder.glob(f"{UNFINISHED}*"), *self._prepared.glob(f"{UNFINISHED}*")):
            file.unlink(missing_ok=True)
        for file in self._prepared.glob("*.wav"):
            self._tidy(file.stem)

    def voices(self) -> list[Voice]:
        """In the order in which they came, examples last."""
        return list(self._usable().values())

    def find(self, speaker_id: str | int | None) -> Voice:
        """The voice of that number or name, or the one that stands in for one of OpenAI's names; None: the lowest number.

        Raises:
            InvalidInput: there is none, or its recording cannot be used.
        """
        asked = "" if speaker_id is None else str(speaker_id).strip()
        is_number = asked.isascii() and asked.isdigit() and len(asked) < MAX_DIGITS
        if not is_number and speaker_id is not None:
            asked = checked_name(asked, "speaker_id")
        usable = self._usable()
        numbered = {voice.number: voice for voice in usable.values()}
        if speaker_id is None and numbered:
            return numbered[min(numbered)]
        if asked in OPENAI_VOICES and usable:
            return self._stand_in(asked)
        if is_number and int(asked) in numbered:
            return numbered[int(asked)]
        if asked in usable:
            return usable[asked]
        known = _known(list(numbered.values()))
        name = self._name_of(int(asked), known) if is_number else asked
        for recording in self._recordings:
            if recording.voice.name == name and recording.voice.problem is not None:
                raise InvalidInput(f"voice {name!r} cannot be used: {recording.voice.problem}", param="speaker_id")
        raise InvalidInput(f"voice {asked!r} is unknown; {known}", param="speaker_id")

    def _name_of(self, number: int, known: str) -> str:
        """The name of a voice that has that number and is not listed. Raises InvalidInput where it has been removed."""
        voice = self._registry.voices.get(number)
        if voice is not None and not voice.missing:
            return voice.name
        if voice is not None:
            raise InvalidInput(f"voice {number} was {voice.name!r}, whose recording is gone; {known}", param="speaker_id")
        if number < self._registry.next:
            name = self._registry.removed.get(number)
            was = f"was {name!r} and" if name else "is one that"
            raise InvalidInput(
                f"voice {number} {was} has been removed; no other voice gets its number; {known}", param="speaker_id"
            )
        return str(number)

    def _stand_in(self, alias: str) -> Voice:
        with self._looking:
            self._registry = self._numbers.stand_in(alias, self._usable())
            return next(voice for voice in self._usable().values() if voice.number == self._registry.aliases[alias])

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
        """Keep a recording as a new voice; see `add_steps`."""
        return complete(self.add_steps(name, file))

    def add_steps(self, name: str, file: BinaryIO) -> Steps[Voice]:
        """Keep a recording as a new voice, in steps. What is kept is trimmed, mono and of 16 bits.

        Args:
            name: see `voice_names.NAME_RULE`; none of OpenAI's.
            file: open and seekable, in any format that `media.decode` knows.

        Raises:
            Conflict: there is a voice of that name.
            TooLarge, UnsupportedMedia, InvalidInput: the name or the recording will not do.
            StorageFull: the disk has no room for it.
        """
        name = checked_name(name)
        if problem := reserved(name):
            raise InvalidInput(f"{problem}; choose another name", param="name")
        self._check_free(name)  # before the work
        size = file.seek(0, os.SEEK_END)
        if size > MAX_FILE_BYTES:
            raise TooLarge(f"the file has {size} bytes; the limit is {MAX_FILE_BYTES}", param="file")
        wav = yield from _wav_steps(file)
        with self._looking:
            self._check_free(name)
            stored = [recording for recording in self._recordings if recording.voice.origin == "stored"]
            if len(stored) >= MAX_VOICES:
                raise InvalidInput(f"there are {len(stored)} voices and that is the limit; remove one first")
            # Clocks of file systems are coarse: without this, two that come together would be in the order of their names.
            arrived = max([time.time_ns(), *(recording.info.st_mtime_ns + 1 for recording in stored)])
            with storing("the voice"):
                write_file(self._folder / f"{name}.wav", wav, arrived)
            return self.get(name)

    def remove(self, name: str) -> None:
        """Delete a voice, also one that cannot be used. A job that has borrowed it keeps it until its end.

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
            self._numbers.remove(name)
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
                    data = read_recording(recording.path)
                except (OSError, TooLarge):
                    raise gone from None
                if hashlib.sha256(data).hexdigest() != voice.digest:
                    raise gone
                wav = complete(_wav_steps(io.BytesIO(data)))
                with storing("the voice"):
                    write_file(path, wav)
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
        """By name, in order, with numbers and aliases."""
        with self._looking:
            self._look()
            numbers = {voice.name: number for number, voice in self._registry.voices.items()}
            aliases = {number: [a for a, of in self._registry.aliases.items() if of == number] for number in numbers.values()}
            return {
                name: replace(voice, number=numbers[name], aliases=tuple(aliases[numbers[name]]))
                for name, voice in self._found().items()
            }

    def _found(self) -> dict[str, Voice]:
        """Voices that can be used, by name, in order. Of two recordings with one name the older counts."""
        found: dict[str, Voice] = {}
        for recording in self._recordings:
            if recording.voice.problem is None:
                found.setdefault(recording.voice.name, recording.voice)
        return found

    def _look(self) -> None:
        """Bring what is known up to date with the folders. A file that has not changed is not read again."""
        with self._looking:
            before = {recording.path: recording for recording in self._recordings}
            stored = find_recordings(self._folder)
            if len(stored) > MAX_VOICES:
                self._warn_once(f"only the first {MAX_VOICES} voices are used")
            found = [self._recording(path, info, "stored", before) for path, info in stored[:MAX_VOICES]]
            examples = sorted(find_recordings(self._examples)) if self._examples else []  # a checkout has no order of arrival
            found += [self._recording(path, info, "example", before) for path, info in examples if path.match("voice_*.wav")]
            self._recordings = tuple(recording for recording in found if recording is not None)
            digests = {name: voice.digest for name, voice in self._found().items()}
            self._registry = self._numbers.assign(digests, [recording.voice.name for recording in self._recordings])
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
            if problem := reserved(name):
                raise InvalidInput(f"{problem}; rename the file")
            data = read_recording(path)
            digest = hashlib.sha256(data).hexdigest()
            seconds = len(read_reference(io.BytesIO(data))) / REFERENCE_RATE
        except InvalidInput as error:
            problem = error.message
            self._warn_once(f"voice {path.name!r} cannot be used: {problem}")
        except OSError as error:  # may be temporary, so it is not remembered
            self._warn_once(f"voice {path.name!r} cannot be read: {error.strerror}")
            return None
        voice = Voice(name, seconds, digest, origin, info.st_mtime, problem)
        return _Recording(path, info, voice)

    def _warn_once(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", message)


def _not_found(name: str) -> NotFound:
    return NotFound(f"there is no voice {name!r}", param="name")


def _known(voices: Sequence[Voice]) -> str:
    if not voices:
        return (
            f"there is no voice yet: put a recording of {MIN_S:g} to {MAX_S:g} s into the folder 'voices' of the cache hub, "
            "or send one to POST /v1/voices"
        )
    more = f" and {len(voices) - NAMES_TOLD} more" if len(voices) > NAMES_TOLD else ""
    return f"known: {', '.join(f'{voice.number} = {voice.name}' for voice in voices[:NAMES_TOLD])}{more}"


def _wav_steps(file: BinaryIO) -> Steps[bytes]:
    return encode((yield from reference_steps(file)), REFERENCE_RATE, AUDIO_FORMATS["wav"])
