"""Emotion and events as fields -> the emoji view that users of SenseVoice know. Knows nothing of how they were recognised."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EMOTION_EMOJI = {"HAPPY": "😊", "SAD": "😔", "ANGRY": "😡", "FEARFUL": "😰", "DISGUSTED": "🤢", "SURPRISED": "😮"}
# In the order in which FunASR puts one before the other: the last that is heard stands first.
EVENT_EMOJI = {"BGM": "🎼", "Applause": "👏", "Laughter": "😀", "Cry": "😭", "Sneeze": "🤧", "Cough": "🤧"}
NOTHING_KNOWN = "❓"
WITHOUT_SPACES = ("zh", "yue", "ja")  # languages that write no space between sentences


@dataclass(frozen=True)
class RichSegment:
    """What the view needs of one segment."""

    text: str
    language: str
    emotion: str | None
    events: tuple[str, ...]


def rich_text(segments: Iterable[RichSegment]) -> str:
    """For people to read: each segment's events before it and its emotion after it, a run of the same shown once, and a space
    between segments where the language writes one."""
    parts: list[tuple[str, str]] = []
    previous_emotion, previous_events = "", ""
    for segment in segments:
        events, emotion = _emoji(segment)
        if parts and emotion == previous_emotion and emotion:
            parts[-1] = (parts[-1][0].removesuffix(emotion), parts[-1][1])
        parts.append(((events if events != previous_events else "") + segment.text + emotion, segment.language))
        previous_emotion, previous_events = emotion, events
    return join_text(parts)


def funasr_rich_text(segments: Iterable[RichSegment]) -> str:
    """What FunASR's rich_transcription_postprocess makes of the same tags, for clients that rely on it.

    No spaces between segments; segments without anything to show are passed over; only a segment's first event is compared with
    the one before, and what was dropped is forgotten, so that of three equal ones the third is shown again.
    """
    text, current = "", ""
    for segment in segments:
        events, emotion = _emoji(segment)
        part = (events + segment.text + emotion).strip()
        if part and part[0] == current and current:
            part = part[1:].strip()
        if not part:
            continue
        current = part[0] if part[0] in EVENT_EMOJI.values() else ""
        if text and part[-1] in EMOTION_EMOJI.values() and part[-1] == text[-1]:
            text = text[:-1]
        text += part
    return text


def _emoji(segment: RichSegment) -> tuple[str, str]:
    """What stands before and after the text."""
    if segment.language == "nospeech" and segment.emotion is None and "Event_UNK" in segment.events:
        return NOTHING_KNOWN, ""
    # Sneeze and Cough look the same.
    events = "".join(emoji for event, emoji in reversed(EVENT_EMOJI.items()) if event in segment.events)
    return events, EMOTION_EMOJI.get(segment.emotion or "", "")


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
