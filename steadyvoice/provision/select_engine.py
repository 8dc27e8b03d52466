"""Which engine an app uses, and why: decided once, before the start, and never changed in the middle of a run."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from steadyvoice.engine_specs import ESPEAK, FUNASR, INDEXTTS2, POCKETSPHINX, SENSEVOICE, EngineChoice, EngineSpec, NoEngine
from steadyvoice.provision import hardware, indextts_checkout
from steadyvoice.provision.release_files import is_wanted, release_dir, release_problem, revision_of
from steadyvoice.settings import PREFIX, Settings

# What each engine needs to be importable on this machine.
PACKAGES = {
    SENSEVOICE.name: ("torch", "sentencepiece", "yaml"),
    FUNASR.name: ("torch", "funasr"),
    POCKETSPHINX.name: ("pocketsphinx",),
    ESPEAK.name: ("espeakng_loader",),
}


def choose_recognizer(settings: Settings) -> EngineChoice:
    """Raises NoEngine."""
    match settings.asr_engine:
        case "funasr":
            return _checked(_funasr(settings))
        case "pocketsphinx":
            return _checked(EngineChoice(POCKETSPHINX, "as set"))
        case asked:
            folder = release_dir(settings)
            problem = _missing_package(SENSEVOICE) or release_problem(folder)
    if problem is None:
        options = {"directory": str(folder), "revision": revision_of(folder), "precision": settings.precision}
        return EngineChoice(SENSEVOICE, f"release in {folder}", options)
    # A directory that the user has set must work: another engine in its place would be a surprise.
    if asked == "auto" and settings.sensevoice_dir is None:
        hint = "; start_app.sh fetches it before the start" if is_wanted(settings) else ""
        return _checked(EngineChoice(POCKETSPHINX, f"embedded engine: SenseVoiceSmall cannot work, {problem}{hint}"))
    raise NoEngine(f"engine {SENSEVOICE.name} cannot work: {problem}")


def choose_synthesizer(settings: Settings) -> EngineChoice:
    """Raises NoEngine."""
    if settings.tts_engine == "espeak":
        return _checked(EngineChoice(ESPEAK, "as set"))
    try:
        return _indextts2(settings)
    except indextts_checkout.NotUsable as error:
        if settings.tts_engine == "indextts2":
            raise NoEngine(f"engine {INDEXTTS2.name} cannot work: {error}") from error
        return _checked(EngineChoice(ESPEAK, f"embedded engine: IndexTTS2 cannot work, {error}"))


def _indextts2(settings: Settings) -> EngineChoice:
    """The user's IndexTTS2, as far as this machine can hold it. Raises indextts_checkout.NotUsable."""
    checkout = indextts_checkout.find_checkout(settings)
    if problem := indextts_checkout.weights_problem(checkout):
        raise indextts_checkout.NotUsable(problem)
    fit = indextts_checkout.advice(gpu_total(settings), hardware.ram_bytes()[0])
    qwen = fit.qwen and indextts_checkout.has_qwen(checkout)
    languages = (*INDEXTTS2.languages, "ja") if checkout.version == "2.5" else INDEXTTS2.languages
    without = "which is not there" if fit.qwen else "for which there is no room"
    return EngineChoice(
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


def _funasr(settings: Settings) -> EngineChoice:
    """FunASR's own model by name, or the same release that `sensevoice` reads."""
    if settings.funasr_model is not None:
        # What another model can do is not known before it is loaded, so nothing is promised.
        spec = replace(FUNASR, itn=False, tells_emotion=False)
        return EngineChoice(spec, f"model {settings.funasr_model}, as set", {"model": settings.funasr_model})
    folder = release_dir(settings)
    problem = release_problem(folder)
    if problem is None and not (folder / "configuration.json").is_file():
        problem = f"{folder} has no configuration.json, which FunASR reads"
    if problem is not None:
        raise NoEngine(f"engine {FUNASR.name} cannot work: {problem}; or set {PREFIX}FUNASR_MODEL")
    return EngineChoice(FUNASR, f"release in {folder}, as set", {"model": str(folder)})


def _checked(choice: EngineChoice) -> EngineChoice:
    if missing := _missing_package(choice.spec):
        raise NoEngine(f"engine {choice.spec.name} cannot work: {missing}")
    return choice


def _missing_package(spec: EngineSpec) -> str | None:
    missing = [package for package in PACKAGES[spec.name] if importlib.util.find_spec(package) is None]
    return f"the package {missing[0]} is not installed" if missing else None
