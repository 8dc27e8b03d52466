"""Emotion and events as fields -> the emoji view that users of SenseVoice know. Knows nothing of how they were recognised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EMOTION_EMOJI = {"HAPPY": "😊", "SAD": "😔", "ANGRY": "😡", "FEARFUL": "😰", "DISGUSTED": "🤢", "SURPRISED": "😮"}
EVENT_EMOJI = {"BGM": "🎼", "Applause": "👏", "Laughter": "😀", "Cry": "😭", "Sneeze": "🤧", "Cough": "🤧"}
WITHOUT_SPACES = ("zh", "yue", "ja")  # languages that write no space between sentences


@dataclass(frozen=True)
class RichSegment:
    """What the view needs of one segment."""

    text: str
    language: str
    emotion: str | None
    events: tuple[str, ...]


def rich_text(segments: Iterable[RichSegment]) -> str:
    """Each segment's events before it and its emotion after it; a run of the same emotion or event is shown once."""
    parts: list[tuple[str, str]] = []
    previous_emotion, previous_events = "", ""
    for segment in segments:
        emotion = EMOTION_EMOJI.get(segment.emotion or "", "")
        events = "".join(EVENT_EMOJI.get(event, "") for event in segment.events)
        if parts and emotion == previous_emotion and emotion:
            parts[-1] = (parts[-1][0].removesuffix(emotion), parts[-1][1])
        parts.append(((events if events != previous_events else "") + segment.text + emotion, segment.language))
        previous_emotion, previous_events = emotion, events
    return join_text(parts)


def join_text(parts: Sequence[tuple[str, str]]) -> str:
    """(text, language) in order -> one text, with a space where the language writes one."""
    joined = ""
    for text, language in parts:
        if text:
            joined += (separator(joined, language)) + text
    return joined


def separator(before: str, language: str) -> str:
    """What stands between the text so far and a next segment in `language`."""
    return "" if not before or language in WITHOUT_SPACES else " "
