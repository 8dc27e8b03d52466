"""The tags of SenseVoice's answers -> fields. Names come without their brackets: "en", "HAPPY", "BGM"."""

from __future__ import annotations

from collections.abc import Sequence

# NEUTRAL first: where several are told equally often, FunASR takes it.
EMOTIONS = ("NEUTRAL", "HAPPY", "SAD", "ANGRY", "FEARFUL", "DISGUSTED", "SURPRISED", "OTHER", "EMO_UNKNOWN")
ITN = frozenset({"withitn", "woitn"})


def language_of(tags: Sequence[str]) -> str:
    """The first language; nospeech counts as one, and auto stands for none."""
    return next((tag for tag in tags if tag.islower() and tag not in ITN), "auto")


def emotion_of(tags: Sequence[str]) -> str | None:
    """The emotion that is told most often; EMO_UNKNOWN where the model heard none."""
    told = [emotion for emotion in EMOTIONS if emotion in tags]
    return max(told, key=tags.count, default=None)


def events_of(tags: Sequence[str]) -> tuple[str, ...]:
    """Sound events in the order in which they begin, each once."""
    return tuple(dict.fromkeys(tag for tag in tags if not tag.islower() and tag not in EMOTIONS and not tag.startswith("/")))
