"""The parameters of a speech request, and their validation. Knows no HTTP and does no work."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine_specs import EMOTIONS, OPENAI_VOICES, SPEECH_LANGUAGES, EngineSpec
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AudioFormat, audio_format
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.media.text import HAN, Piece, clean, split
from steadyvoice.service.service import Service
from steadyvoice.service.voices.store import Voice, VoiceStore

EMOTION_PARTS = len(EMOTIONS) - 1  # neutral is none of them
MAX_EMOTION_TEXT = 500  # characters


class Unnamed(Enum):
    """The voice of a request that names none. None is not used for it: a null that a client sends is an error."""

    LOWEST_NUMBER = "the voice with the lowest number"


@dataclass(frozen=True)
class SpeechOptions:
    """The parameters as the caller sent them."""

    text: str
    language: str = "auto"
    emotion: str = "neutral"
    emotion_strength: float = 0.6
    speaker_id: str | int | Unnamed = Unnamed.LOWEST_NUMBER
    speed: float = 1.0
    format: str = "wav"
    seed: int | None = None
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    # Instead of an emotion by name, for engines that imitate: one of these.
    emotion_vector: list[float] | None = None  # a part from 0 to 1 of each of `EMOTIONS` but neutral
    emotion_voice: str | int | None = None  # a voice whose recording has the emotion
    emotion_text: str | None = None  # a description
    speeds: tuple[float, float] = (MIN_SPEED, MAX_SPEED)  # that the caller's route takes


@dataclass(frozen=True)
class SpeechRequest:
    """Validated options."""

    pieces: tuple[Piece, ...]
    emotion: str
    emotion_strength: float
    speaker: str
    speed: float
    format: AudioFormat
    seed: int | None
    service_class: ServiceClass
    voice: Voice | None = None  # to imitate
    emotion_vector: tuple[float, ...] | None = None
    emotion_voice: Voice | None = None
    emotion_text: str | None = None

    @property
    def characters(self) -> int:
        """Of the cleaned text: what counts as input. The engine's own tokens are not known in this process."""
        return sum(len(piece.text) for piece in self.pieces)

    @property
    def expected_s(self) -> float:
        """A rough estimate of how long the audio will be."""
        return sum(piece.seconds for piece in self.pieces) / self.speed


async def check(options: SpeechOptions, service: Service, voices: VoiceStore | None) -> SpeechRequest:
    """Validate everything that can be validated before any work. `voices` for an engine that imitates, and for no other.

    Raises:
        InvalidInput: naming the value and the choices.
        TooLarge: the text is over `MAX_TEXT_CHARS`.
    """
    spec = service.spec
    if options.language not in SPEECH_LANGUAGES:
        raise InvalidInput(
            f"language {options.language[:32]!r} is unknown; known: {', '.join(SPEECH_LANGUAGES)}", param="language"
        )
    _check_range("speed", options.speed, *options.speeds)
    request = SpeechRequest(
        pieces=sentences(options, service),
        emotion=options.emotion,
        emotion_strength=options.emotion_strength,
        speaker="",
        speed=options.speed,
        format=audio_format(options.format),
        seed=options.seed,
        service_class=options.service_class,
        emotion_vector=None if options.emotion_vector is None else tuple(options.emotion_vector),
        emotion_text=None if options.emotion_text is None else clean(options.emotion_text, MAX_EMOTION_TEXT, "emotion_text"),
    )
    _check_emotion(options, spec)
    if voices is None:
        return replace(request, speaker=_speaker(options.speaker_id, spec))
    voice = await _voice(options.speaker_id, service, voices, "speaker_id")
    asked = options.emotion_voice
    emotion_voice = None if asked is None else await _voice(asked, service, voices, "emotion_voice")
    return replace(request, speaker=voice.name, voice=voice, emotion_voice=emotion_voice)


def sentences(options: SpeechOptions, service: Service) -> tuple[Piece, ...]:
    """The text in sentences that the engine speaks, and for which there is memory. Looks at text and language only.

    Raises:
        InvalidInput, TooLarge: as `check`.
    """
    spec, longest_s = service.spec, service.engine.status().longest_s
    text = clean(options.text, service.settings.max_text_chars)
    pieces = tuple(split(text, options.language, longest_s or float("inf")))
    if unknown := [piece.language for piece in pieces if piece.language not in spec.languages]:
        known = ", ".join(name for name in spec.languages if name != "auto")
        raise InvalidInput(
            f"engine {spec.name} speaks no {unknown[0]}; it speaks: {known}",
            param="text" if options.language == "auto" else "language",
        )
    if not spec.reads_kanji and any(piece.language == "ja" and HAN.search(piece.text) for piece in pieces):
        # It would read every kanji as "Chinese letter": an answer that looks right and is not.
        raise InvalidInput(
            f"the {spec.name} voice reads Japanese in kana only, and the text has Chinese characters beside kana; "
            "write it in kana, or send what is Chinese by itself or with language zh",
            param="text",
        )
    return pieces


def _speaker(speaker_id: str | int | Unnamed, spec: EngineSpec) -> str:
    """A number, a name, or one of OpenAI's voice names -> the engine's name. Raises InvalidInput."""
    speakers = spec.speakers
    name = "0" if isinstance(speaker_id, Unnamed) else str(speaker_id).strip()
    if name in speakers:
        return name
    if name in OPENAI_VOICES:
        return speakers[OPENAI_VOICES.index(name) % len(speakers)]
    if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < len(speakers):
        return speakers[int(name)]
    raise InvalidInput(
        f"speaker {name[:64]!r} is unknown; known: 0 to {len(speakers) - 1}, {', '.join(speakers)}", param="speaker_id"
    )


async def _voice(speaker_id: str | int | Unnamed, service: Service, voices: VoiceStore, param: str) -> Voice:
    """The same for a recorded voice. `param` names the caller's field in errors."""
    try:
        return await service.threads.run(partial(voices.find, None if isinstance(speaker_id, Unnamed) else speaker_id))
    except InvalidInput as error:
        error.param = param
        raise


def _check_emotion(options: SpeechOptions, spec: EngineSpec) -> None:
    """Raises InvalidInput for an emotion out of range, given in more ways than one, or in a way that the engine has not."""
    if options.emotion not in EMOTIONS:
        raise InvalidInput(f"emotion {options.emotion[:32]!r} is unknown; known: {', '.join(EMOTIONS)}", param="emotion")
    _check_range("emotion_strength", options.emotion_strength, 0.0, 1.0)
    ways = {
        "emotion": None if options.emotion == "neutral" else options.emotion,
        "emotion_vector": options.emotion_vector,
        "emotion_voice": options.emotion_voice,
        "emotion_text": options.emotion_text,
    }
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise InvalidInput(f"{' and '.join(given)} are given; an emotion is told in one way only", param=given[1])
    if given and given[0] != "emotion" and not spec.clones:
        raise InvalidInput(f"engine {spec.name} takes an emotion by name only, and not by {given[0]}", param=given[0])
    if options.emotion_text is not None and not spec.reads_emotion:
        raise InvalidInput("emotion_text needs the model that reads descriptions, which is not loaded here", param="emotion_text")
    vector = options.emotion_vector
    if vector is not None and (len(vector) != EMOTION_PARTS or not all(0.0 <= part <= 1.0 for part in vector)):
        raise InvalidInput(
            f"emotion_vector takes {EMOTION_PARTS} numbers from 0 to 1, of {', '.join(EMOTIONS[1:])}", param="emotion_vector"
        )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise InvalidInput(f"{name} is {value:g}; allowed: {low:g} to {high:g}", param=name)
