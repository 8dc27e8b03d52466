"""What each engine can do, known before any engine is loaded. Data only; both processes import it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# In the order of IndexTTS2's emotion vector, with neutral before them.
EMOTIONS = ("neutral", "happy", "angry", "sad", "afraid", "disgusted", "melancholic", "surprised", "calm")
RECOGNITION_LANGUAGES = ("auto", "zh", "en", "yue", "ja", "ko")
SPEECH_LANGUAGES = ("auto", "zh", "yue", "en", "ja", "ko")
NATIVE_SPEEDS = (0.5, 2.0)  # that an engine is asked for; the rest of a speed beyond them is time-stretching
SAMPLE_RATE = 16_000  # Hz, of all audio that is recognised
TOKENS_PER_SECOND = 50  # of audio: IndexTTS2's own code rate, 22050 / 256 / 1.72

# The voice names of OpenAI's speech API, so that a client that asks for one is served unchanged. The place in this list decides
# which speaker a name stands for: new names are appended.
OPENAI_VOICES = (
    *("alloy", "ash", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse"),
    *("ballad", "marin", "cedar"),
)
# OpenAI's model names that a request may use for the running engine. A name that promises what no engine here does, such as
# telling speakers apart, is not among them.
MODEL_ALIASES = {
    "recognition": ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"),
    "synthesis": ("tts-1", "tts-1-hd", "gpt-4o-mini-tts"),
}


@dataclass(frozen=True)
class EngineSpec:
    """One engine, as pages, /v1/models and validation see it."""

    name: str
    kind: Literal["recognition", "synthesis"]
    languages: tuple[str, ...]
    embedded: bool  # needs no weights and no network
    license: str
    note_en: str = ""  # what a user should know before trusting the answer
    note_zh: str = ""
    itn: bool = False
    tells_emotion: bool = False
    scores: bool = False  # gives token ids, log probabilities and the probability of no speech
    translates: bool = False  # recognises any of its languages as English text
    speakers: tuple[str, ...] = ()  # its own
    clones: bool = False  # speaks in any voice that it is given a recording of
    seeded: bool = False  # without a seed no two answers are the same
    reads_emotion: bool = False  # from a description in words
    reads_kanji: bool = True  # without it, Japanese is spoken in kana only
    pause_s: float = 0.0  # of silence that belongs between two pieces, which it does not make itself


@dataclass(frozen=True)
class EngineChoice:
    """The chosen engine, what its worker is told, and the reason, in a sentence for the log and the preflight."""

    spec: EngineSpec
    reason: str
    options: dict[str, Any] = field(default_factory=dict)
    python: str | None = None  # the interpreter of its worker; None is our own
    examples: Path | None = None  # a folder of voices that came with it


class NoEngine(Exception):
    """The engine that was asked for cannot work here. The message says what is missing."""


SENSEVOICE = EngineSpec(
    name="sensevoice",
    kind="recognition",
    languages=RECOGNITION_LANGUAGES,
    embedded=False,
    license="FunASR Model License (weights)",
    itn=True,
    tells_emotion=True,
    scores=True,
)
FUNASR = EngineSpec(
    name="funasr",
    kind="recognition",
    languages=RECOGNITION_LANGUAGES,
    embedded=False,
    license="MIT; each model has its own",
    note_en="FunASR's own AutoModel, one segment at a time: the reference, several times slower than engine sensevoice.",
    note_zh="FunASR 自带的 AutoModel，逐段识别：用作参照，比 sensevoice 引擎慢数倍。",
    itn=True,
    tells_emotion=True,
)
POCKETSPHINX = EngineSpec(
    name="pocketsphinx",
    kind="recognition",
    languages=("auto", "en"),
    embedded=True,
    license="BSD-2-Clause",
    note_en="Embedded recogniser: English only, lower case, no punctuation, about one word in four wrong. "
    "It tells neither emotion nor events and writes numbers as words.",
    note_zh="内置识别引擎：仅支持英语，输出小写且无标点，约四分之一的词有误；不识别情感与声音事件，数字以单词写出。",
)
ESPEAK = EngineSpec(
    name="espeak",
    kind="synthesis",
    languages=SPEECH_LANGUAGES,
    embedded=True,
    license="GPL-3.0-or-later (separate process)",
    note_en="Embedded voice: robotic but clear. Japanese in kana only.",
    note_zh="内置语音引擎：机械音但清晰；日语仅支持假名。",
    reads_kanji=False,
    # Chosen for being far apart from one another in pitch and timbre, in each of the five languages.
    speakers=("f1", "f2", "Annie", "Andrea", "steph", "m1", "m2", "Michael", "Gene", "iven"),
)
INDEXTTS2 = EngineSpec(
    name="indextts2",
    kind="synthesis",
    languages=("auto", "zh", "en"),
    embedded=False,
    license="bilibili Model Use License (code and weights; not open source)",
    note_en="IndexTTS2 imitates the voice of a recording: use only voices whose owners agree. Its licence is bilibili's own.",
    note_zh="IndexTTS2 会模仿录音中的声音：请仅使用已获本人同意的声音。其许可为 bilibili 自有许可。",
    clones=True,
    seeded=True,
    pause_s=0.2,
)
ENGINE_SPECS = {spec.name: spec for spec in (SENSEVOICE, FUNASR, POCKETSPHINX, ESPEAK, INDEXTTS2)}


def model_names(spec: EngineSpec) -> tuple[str, ...]:
    """What a request may call the engine's model: its own name, then OpenAI's names."""
    return (spec.name, *MODEL_ALIASES[spec.kind])
