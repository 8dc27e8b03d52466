"""The words of a transcript, packed: an hour of speech has tens of thousands, and as objects each takes some 170 bytes."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import overload

from steadyvoice.protocol import Word

WORD_BYTES = 60  # of one of ten letters, in any script


@dataclass(frozen=True, slots=True)
class PackedWords(Sequence[Word]):
    """Words as they came, made anew whenever they are read."""

    _letters: str  # of all of them, one after the other
    _ends: array[int]  # where each ends in it
    _times: array[float]  # start and end of each, in turn

    @classmethod
    def of(cls, words: Iterable[Word]) -> PackedWords:
        words = tuple(words)
        return cls(
            "".join(word.text for word in words),
            array("I", accumulate(len(word.text) for word in words)),
            array("d", chain.from_iterable((word.start, word.end) for word in words)),
        )

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> Word: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Word, ...]: ...
    def __getitem__(self, index: int | slice) -> Word | tuple[Word, ...]:
        if isinstance(index, slice):
            return tuple(self[place] for place in range(*index.indices(len(self))))
        place = range(len(self))[index]  # raises IndexError
        begin = self._ends[place - 1] if place else 0
        return Word(self._letters[begin : self._ends[place]], self._times[2 * place], self._times[2 * place + 1])
