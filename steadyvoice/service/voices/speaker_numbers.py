"""The numbers of recorded voices, and which voice stands in for each of OpenAI's names. Both stay as they are for ever.

They are kept in the folder of the voices, in a file and a copy of it, and changed under a lock on the folder, so that several
processes may share one. A voice is known by its name. One whose file has gone keeps its number for the same recording, under
whatever name that comes back. Knows nothing of audio.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError, model_validator

from steadyvoice.service.voices.files import write_file

log = logging.getLogger(__name__)

FILE, COPY, DAMAGED = ".numbers.json", ".numbers-copy.json", ".numbers-damaged.json"
REMEMBERED = 1_000  # names of removed voices


class Numbered(BaseModel):
    """A voice that has a number."""

    model_config = ConfigDict(extra="forbid")

    name: str
    digest: str  # of its recording
    missing: bool = False  # its file has gone, and may come back


class Registry(BaseModel):
    """What is in the file."""

    model_config = ConfigDict(extra="forbid")

    next: NonNegativeInt = 0  # the next voice's number; all below have been given
    voices: dict[int, Numbered] = {}
    removed: dict[int, str] = {}  # names of voices that were removed, the last `REMEMBERED` of them
    aliases: dict[str, int] = {}

    @model_validator(mode="after")
    def _is_sound(self) -> Registry:
        if max((*self.voices, *self.removed), default=-1) >= self.next or self.voices.keys() & self.removed.keys():
            raise ValueError("a number was given twice, or is about to be")
        if len({voice.name for voice in self.voices.values()}) < len(self.voices):
            raise ValueError("a voice has two numbers")
        return self

    def number_of(self, name: str) -> int | None:
        return next((number for number, voice in self.voices.items() if voice.name == name), None)

    def assign(self, usable: Mapping[str, str], present: Iterable[str]) -> None:
        """Give numbers to what is new. `usable`: name -> digest, in order of arrival; `present` also has what cannot be used."""
        kept = {*usable, *present}
        for voice in self.voices.values():
            voice.missing |= voice.name not in kept
        for name, digest in usable.items():
            number = self.number_of(name)
            if number is not None and self.voices[number].missing and self.voices[number].digest != digest:
                self.remove(number)  # another recording under the name of one that had gone is another voice
                number = None
            if number is None:
                number = next((n for n, voice in self.voices.items() if voice.missing and voice.digest == digest), self.next)
            self.voices[number] = Numbered(name=name, digest=digest)
            self.next = max(self.next, number + 1)

    def remove(self, number: int) -> None:
        """Its number is never given again. Aliases of it are free for other voices."""
        self.removed[number] = self.voices.pop(number).name
        for oldest in sorted(self.removed)[:-REMEMBERED]:
            del self.removed[oldest]
        self.aliases = {alias: of for alias, of in self.aliases.items() if of != number}

    def stand_in(self, alias: str, usable: Iterable[str]) -> None:
        """Give `alias` to the usable voice with the fewest aliases, of several to that with the lowest number."""
        numbers = sorted(number for name in usable if (number := self.number_of(name)) is not None)
        if numbers and self.aliases.get(alias) not in numbers:
            taken = Counter(self.aliases.values())
            self.aliases[alias] = min(numbers, key=lambda number: (taken[number], number))


class VoiceNumbers:
    """The registry of one folder. Not thread-safe; other processes may use the same folder at the same time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._registry = Registry()
        self._seen: tuple[int, int, int] | None = None  # what the file looked like from outside when it was read
        self._is_saved = True

    def assign(self, usable: Mapping[str, str], present: Iterable[str]) -> Registry:
        """See `Registry.assign`. Without a folder, numbers are given and not kept: they are kept with the first voice."""
        present = tuple(present)
        return self._changed(lambda registry: registry.assign(usable, present))

    def remove(self, name: str) -> None:
        """The voice was deleted."""

        def change(registry: Registry) -> None:
            if (number := registry.number_of(name)) is not None:
                registry.remove(number)

        self._changed(change)

    def stand_in(self, alias: str, usable: Iterable[str]) -> Registry:
        """See `Registry.stand_in`."""
        names = tuple(usable)
        if names:
            with suppress(OSError):  # told when the registry is written
                self._folder.mkdir(parents=True, exist_ok=True)
        return self._changed(lambda registry: registry.stand_in(alias, names))

    def _changed(self, change: Callable[[Registry], None]) -> Registry:
        """The registry after a change, which is written if it is one."""
        self._read()
        if self._tried(change) == self._registry and self._is_saved:
            return self._registry
        with self._locked() as may_write:
            self._read()
            self._registry = self._tried(change)
            self._is_saved = may_write and self._write()
        return self._registry

    def _tried(self, change: Callable[[Registry], None]) -> Registry:
        registry = self._registry.model_copy(deep=True)
        change(registry)
        return registry

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether there is a folder; while the block runs no other process changes its registry."""
        try:
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            yield False
            return
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield True
        finally:
            os.close(folder)

    def _read(self) -> None:
        """Take over what is in the file, if it has changed. A lost file is what this process knows, and is written again."""
        seen = _look(self._folder / FILE)
        if seen is not None and seen == self._seen:
            return
        self._seen = seen
        read = [_parsed(self._folder / name) for name in (FILE, COPY)]
        registry = next((registry for registry in read if registry is not None), None)
        if registry is not None and registry.next >= self._registry.next:
            self._registry = registry
        self._is_saved = self._registry == (read[0] or Registry())
        if seen is not None and read[0] is None:
            log.error("the file with the numbers of voices is damaged; it is kept as %s", DAMAGED)
            try:
                (self._folder / FILE).replace(self._folder / DAMAGED)
            except OSError as error:
                log.warning("it could not be set aside: %s", error.strerror)

    def _write(self) -> bool:
        data = self._registry.model_dump_json(indent=1).encode()
        try:
            for name in (COPY, FILE):
                write_file(self._folder / name, data)
        except OSError as error:
            log.warning("the numbers of voices cannot be kept: %s", error.strerror)
            return False
        self._seen = _look(self._folder / FILE)
        return True


def _look(path: Path) -> tuple[int, int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_ino, info.st_mtime_ns, info.st_size


def _parsed(path: Path) -> Registry | None:
    try:
        return Registry.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
