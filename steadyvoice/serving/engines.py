"""Which engine an app uses, and why: decided once, before the start, and never changed in the middle of a run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from steadyvoice.catalogue import CARDS, ESPEAK, POCKETSPHINX, EngineCard
from steadyvoice.settings import Settings


@dataclass(frozen=True)
class Choice:
    """The chosen engine and the reason, in a sentence for the log and the preflight."""

    card: EngineCard
    reason: str


class NoEngine(Exception):
    """The engine that was asked for cannot work here. The message says what is missing."""


# What each engine needs to be importable on this machine.
PACKAGES = {POCKETSPHINX.name: "pocketsphinx", ESPEAK.name: "espeakng_loader"}


def choose_recognizer(settings: Settings) -> Choice:
    """Raises NoEngine."""
    return _choose(settings.asr_engine, POCKETSPHINX, "SenseVoiceSmall has not landed in this version")


def choose_synthesizer(settings: Settings) -> Choice:
    """Raises NoEngine."""
    return _choose(settings.tts_engine, ESPEAK, "IndexTTS2 has not landed in this version")


def _choose(asked: str, embedded: EngineCard, why_embedded: str) -> Choice:
    choice = Choice(embedded, f"embedded engine: {why_embedded}") if asked == "auto" else Choice(CARDS[asked], "as set")
    package = PACKAGES[choice.card.name]
    if importlib.util.find_spec(package) is None:
        raise NoEngine(f"engine {choice.card.name} needs the package {package}, which is not installed")
    return choice
