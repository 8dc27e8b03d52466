"""The tags of SenseVoice's answers -> fields. Names come without their brackets: "en", "HAPPY", "BGM"."""

from __future__ import annotations

from collections.abc import Sequence

EMOTIONS = frozenset({"HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "OTHER", "EMO_UNKNOWN"})
UNKNOWN_EMOTION = "EMO_UNKNOWN"
ITN = frozenset({"withitn", "woitn"})


def language_of(tags: Sequence[str]) -> str:
    """The first language; nospeech counts as one, and auto stands for none."""
    return next((tag for tag in tags if tag.islower() and tag not in ITN), "auto")


def emotion_of(tags: Sequence[str]) -> str | None:
    """The first emotion that the model is sure of."""
    return next((tag for tag in tags if tag in EMOTIONS and tag != UNKNOWN_EMOTION), None)


def events_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Sound events in the order in which they begin, each once."""
    return tuple(dict.fromkeys(tag for tag in tags if not tag.islower() and tag not in EMOTIONS and not tag.startswith("/")))
