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


def rich_text(segments: Iterable[RichSegment], *, spaced: bool) -> str:
    """Each segment's events before it and its emotion after it; a run of the same emotion or event is shown once.

    `spaced` puts a space between segments where the language writes one, for people to read. Without, the result is that of
    FunASR's rich_transcription_postprocess, which never does.
    """
    parts: list[tuple[str, str]] = []
    previous_emotion, previous_events = "", ""
    for segment in segments:
        emotion = EMOTION_EMOJI.get(segment.emotion or "", "")
        events = "".join(emoji for event, emoji in reversed(EVENT_EMOJI.items()) if event in segment.events)
        if segment.language == "nospeech" and segment.emotion is None and "Event_UNK" in segment.events:
            events = NOTHING_KNOWN
        if parts and emotion == previous_emotion and emotion:
            parts[-1] = (parts[-1][0].removesuffix(emotion), parts[-1][1])
        parts.append(((events if events != previous_events else "") + segment.text + emotion, segment.language))
        previous_emotion, previous_events = emotion, events
    return join_text(parts) if spaced else "".join(text for text, _ in parts)


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
