"""Segments with times -> SRT and WebVTT. Knows nothing of where the segments come from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Cue:
    """One subtitle: seconds from the start of the audio."""

    start: float
    end: float
    text: str


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
