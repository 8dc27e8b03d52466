"""Segments and words with times -> cues -> SRT and WebVTT. Knows nothing of where they come from."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from steadyvoice.protocol import Word

MAX_CUE_S = 6.0  # what can be read at a glance: two lines of 42 columns
MAX_CUE_COLUMNS = 84
PAUSE_S = 1.0  # a silence as long as this ends a cue
SENTENCE_END = re.compile(r"[.?!。？！]")


@dataclass(frozen=True)
class Cue:
    """One subtitle: seconds from the start of the audio."""

    start: float
    end: float
    text: str


def cues_of(segment: Cue, words: Sequence[Word]) -> list[Cue]:
    """A segment as cues that can be read, cut between words: after a sentence, at a pause, or where one would be too much.

    Without word times, or where the words are not those of the text, the segment is one cue. Every letter of the text is in
    exactly one cue.
    """
    if not segment.text:
        return []
    places = _places(segment.text, words)
    if not places:
        return [segment]
    cues: list[Cue] = []
    first = 0  # word of the cue that is being gathered
    for index in range(1, len(words) + 1):
        if index < len(words) and not _ends_before(index, first, segment.text, places, words):
            continue
        begin = 0 if first == 0 else places[first]
        end = len(segment.text) if index == len(words) else places[index]
        cues.append(Cue(words[first].start, words[index - 1].end, segment.text[begin:end].strip()))
        first = index
    return cues


def word_cues(words: Iterable[Word]) -> list[Cue]:
    """One cue per word."""
    return [Cue(word.start, word.end, word.text) for word in words]


def _places(text: str, words: Sequence[Word]) -> list[int]:
    """Where in the text each word begins; empty if one is not found after the one before."""
    places, position = [], 0
    for word in words:
        found = text.find(word.text, position)
        if found < 0:
            return []
        places.append(found)
        position = found + len(word.text)
    return places


def _ends_before(index: int, first: int, text: str, places: Sequence[int], words: Sequence[Word]) -> bool:
    """Whether the cue that began with word `first` ends before word `index`."""
    word, last = words[index], words[index - 1]
    between = text[places[index - 1] + len(last.text) : places[index]]
    return (
        SENTENCE_END.search(between) is not None
        or word.start - last.end >= PAUSE_S
        or word.end - words[first].start > MAX_CUE_S
        or columns(text[places[first] : places[index] + len(word.text)]) > MAX_CUE_COLUMNS
    )


def columns(text: str) -> int:
    """How wide a text is on a screen: Chinese characters, kana and hangul take two columns."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def to_srt(cues: Iterable[Cue]) -> str:
    """SubRip: numbered cues, comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n{_one_block(cue.text)}\n\n"
        for number, cue in enumerate(cues, start=1)
    )


def to_vtt(cues: Iterable[Cue]) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1/): &, < and > are escaped, so no arrow in a text can end a cue."""
    blocks = (f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_escape(_one_block(cue.text))}\n\n" for cue in cues)
    return "WEBVTT\n\n" + "".join(blocks)


def _clock(seconds: float, separator: str) -> str:
    """HH:MM:SS and milliseconds."""
    milliseconds = round(max(0.0, seconds) * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{separator}{milliseconds % 1000:03}"


def _one_block(text: str) -> str:
    """An empty line would end the cue."""
    return "\n".join(line for line in text.splitlines() if line.strip())


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
