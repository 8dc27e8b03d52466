"""Which engine an app uses, and why: decided once, before the start, and never changed in the middle of a run."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steadyvoice.catalogue import ESPEAK, FUNASR, INDEXTTS2, POCKETSPHINX, SENSEVOICE, EngineCard
from steadyvoice.serving import hardware, indextts
from steadyvoice.serving.release import is_wanted, release_dir, release_problem, revision_of
from steadyvoice.settings import PREFIX, Settings


@dataclass(frozen=True)
class Choice:
    """The chosen engine, what its worker is told, and the reason, in a sentence for the log and the preflight."""

    card: EngineCard
    reason: str
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = None  # the interpreter of its worker; None is our own
    examples: Path | None = None  # a folder of voices that came with it


class NoEngine(Exception):
    """The engine that was asked for cannot work here. The message says what is missing."""


# What each engine needs to be importable on this machine.
PACKAGES = {
    SENSEVOICE.name: ("torch", "sentencepiece", "yaml"),
    FUNASR.name: ("torch", "funasr"),
    POCKETSPHINX.name: ("pocketsphinx",),
    ESPEAK.name: ("espeakng_loader",),
}


def choose_recognizer(settings: Settings) -> Choice:
    """Raises NoEngine."""
    match settings.asr_engine:
        case "funasr":
            return _checked(_funasr(settings))
        case "pocketsphinx":
            return _checked(Choice(POCKETSPHINX, "as set"))
        case asked:
            folder = release_dir(settings)
            problem = _missing_package(SENSEVOICE) or release_problem(folder)
    if problem is None:
        options = {"directory": str(folder), "revision": revision_of(folder), "precision": settings.precision}
        return Choice(SENSEVOICE, f"release in {folder}", options)
    # A directory of the user's own is a wish, and passing over it in silence would be no kindness.
    if asked == "auto" and settings.sensevoice_dir is None:
        hint = "; start_app.sh fetches it before the start" if is_wanted(settings) else ""
        return _checked(Choice(POCKETSPHINX, f"embedded engine: SenseVoiceSmall cannot work, {problem}{hint}"))
    raise NoEngine(f"engine {SENSEVOICE.name} cannot work: {problem}")


def choose_synthesizer(settings: Settings) -> Choice:
    """Raises NoEngine."""
    if settings.tts_engine == "espeak":
        return _checked(Choice(ESPEAK, "as set"))
    try:
        return _indextts2(settings)
    except indextts.NotUsable as error:
        if settings.tts_engine == "indextts2":
            raise NoEngine(f"engine {INDEXTTS2.name} cannot work: {error}") from error
        return _checked(Choice(ESPEAK, f"embedded engine: IndexTTS2 cannot work, {error}"))


def _indextts2(settings: Settings) -> Choice:
    """The user's IndexTTS2, as far as this machine can hold it. Raises indextts.NotUsable."""
    checkout = indextts.find_checkout(settings)
    if problem := indextts.weights_problem(checkout):
        raise indextts.NotUsable(problem)
    fit = indextts.advice(gpu_total(settings), hardware.ram_bytes()[0])
    qwen = fit.qwen and indextts.has_qwen(checkout)
    languages = (*INDEXTTS2.languages, "ja") if checkout.version == "2.5" else INDEXTTS2.languages
    without = "which is not there" if fit.qwen else "for which there is no room"
    return Choice(
        replace(INDEXTTS2, languages=languages, reads_emotion=qwen),
        f"version {checkout.version} in {checkout.root}; {'with Qwen' if qwen else f'without Qwen, {without}'}; {fit.sentence}",
        {
            "root": str(checkout.root),
            "version": checkout.version,
            "half": fit.precision == "half",
            "beams": fit.beams,
            "qwen": qwen,
        },
        str(checkout.python),
        checkout.root / "examples",
    )


def gpu_total(settings: Settings) -> int | None:
    """Bytes of the first card, as many of them as the settings leave to one app; None without a card."""
    cards = hardware.gpus()
    if not cards:
        return None
    return cards[0].total if settings.gpu_memory_gb is None else min(cards[0].total, int(settings.gpu_memory_gb * 1e9))


def _funasr(settings: Settings) -> Choice:
    """FunASR's own model by name, or the same release that `sensevoice` reads."""
    if settings.funasr_model is not None:
        # What another model can do is not known before it is loaded, so nothing is promised.
        card = replace(FUNASR, itn=False, tells_emotion=False)
        return Choice(card, f"model {settings.funasr_model}, as set", {"model": settings.funasr_model})
    folder = release_dir(settings)
    problem = release_problem(folder)
    if problem is None and not (folder / "configuration.json").is_file():
        problem = f"{folder} has no configuration.json, which FunASR reads"
    if problem is not None:
        raise NoEngine(f"engine {FUNASR.name} cannot work: {problem}; or set {PREFIX}FUNASR_MODEL")
    return Choice(FUNASR, f"release in {folder}, as set", {"model": str(folder)})


def _checked(choice: Choice) -> Choice:
    if missing := _missing_package(choice.card):
        raise NoEngine(f"engine {choice.card.name} cannot work: {missing}")
    return choice


def _missing_package(card: EngineCard) -> str | None:
    missing = [package for package in PACKAGES[card.name] if importlib.util.find_spec(package) is None]
    return f"the package {missing[0]} is not installed" if missing else None
