"""One synthesis, from text to audio. Knows engine and media; knows no HTTP and no page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from steadyvoice.catalogue import EMOTIONS, OPENAI_VOICES, SPEECH_LANGUAGES, TOKENS_PER_SECOND
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine.tickets import Task
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AudioFormat, StreamEncoder, audio_format, encode
from steadyvoice.media.text import HAN, Piece, clean, split
from steadyvoice.protocol import PcmArray, Speech, SynthesizeItem
from steadyvoice.serving.service import Service

log = logging.getLogger(__name__)

MIN_SPEED, MAX_SPEED = 0.5, 2.0
# Cheap enough to do on the event loop; a hop to a thread would cost more than the work.
INLINE_FORMATS = ("wav", "pcm")


@dataclass(frozen=True)
class SpeakOptions:
    """What a caller may choose, as the caller wrote it."""

    text: str
    language: str = "auto"
    emotion: str = "neutral"
    emotion_strength: float = 0.6
    speaker_id: str | int = 0
    speed: float = 1.0
    format: str = "wav"
    seed: int | None = None
    service_class: ServiceClass = ServiceClass.INTERACTIVE


@dataclass(frozen=True)
class SpeakRequest:
    """Checked options: nothing in it needs to be looked at again."""

    pieces: tuple[Piece, ...]
    emotion: str
    emotion_strength: float
    speaker: str
    speed: float
    format: AudioFormat
    seed: int | None
    service_class: ServiceClass


@dataclass(frozen=True)
class SpokenPiece:
    """One sentence, spoken. Timings are this piece's own."""

    index: int
    total: int
    text: str
    speech: Speech
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class Spoken:
    """The whole answer."""

    audio: bytes
    format: AudioFormat
    pcm: PcmArray
    sample_rate: int
    queue_s: float
    inference_s: float

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / self.sample_rate

    @property
    def tokens(self) -> int:
        return round(self.duration_s * TOKENS_PER_SECOND)


class Synthesizer:
    """Turns text into speech, many at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def check(self, options: SpeakOptions) -> SpeakRequest:
        """Validate everything that can be validated before any work.

        Raises:
            InvalidInput: naming the value and the choices.
            TooLarge: the text is over `MAX_TEXT_CHARS`.
        """
        card = self.service.card
        if options.language not in SPEECH_LANGUAGES:
            raise InvalidInput(
                f"language {options.language[:32]!r} is unknown; known: {', '.join(SPEECH_LANGUAGES)}", param="language"
            )
        if options.emotion not in EMOTIONS:
            raise InvalidInput(f"emotion {options.emotion[:32]!r} is unknown; known: {', '.join(EMOTIONS)}", param="emotion")
        _check_range("emotion_strength", options.emotion_strength, 0.0, 1.0)
        _check_range("speed", options.speed, MIN_SPEED, MAX_SPEED)
        pieces = tuple(split(clean(options.text, self.service.settings.max_text_chars), options.language))
        if card.name == "espeak" and any(piece.language == "ja" and HAN.search(piece.text) for piece in pieces):
            # It would read every kanji as "Chinese letter": an answer that looks right and is not.
            raise InvalidInput(
                "the espeak voice reads Japanese in kana only, and the text has Chinese characters beside kana; "
                "write it in kana, or send what is Chinese by itself or with language zh",
                param="text",
            )
        return SpeakRequest(
            pieces=pieces,
            emotion=options.emotion,
            emotion_strength=options.emotion_strength,
            speaker=self.speaker(options.speaker_id),
            speed=options.speed,
            format=audio_format(options.format),
            seed=options.seed,
            service_class=options.service_class,
        )

    def speaker(self, speaker_id: str | int) -> str:
        """A number, a name, or one of OpenAI's voice names -> the engine's name. Raises InvalidInput."""
        speakers = self.service.card.speakers
        name = str(speaker_id).strip()
        if name in speakers:
            return name
        if name in OPENAI_VOICES:
            return speakers[OPENAI_VOICES.index(name) % len(speakers)]
        if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < len(speakers):
            return speakers[int(name)]
        raise InvalidInput(
            f"speaker {name[:64]!r} is unknown; known: 0 to {len(speakers) - 1}, {', '.join(speakers)}", param="speaker_id"
        )

    async def pieces(self, request: SpeakRequest, caller: str) -> AsyncGenerator[SpokenPiece]:
        """Sentences in order, each as soon as it is spoken. Closing the iterator cancels the rest.

        Raises:
            SteadyvoiceError: every subclass that the engine raises.
        """
        service = self.service
        common = SynthesizeItem("", "", request.speaker, request.emotion, request.emotion_strength, request.speed, request.seed)
        job = service.submit(
            [
                Task(
                    replace(common, text=piece.text, language=piece.language).to_payload(),
                    # An estimate decides who goes when; it must never be the reason to refuse a text.
                    min(piece.seconds / request.speed, service.settings.batch_size_s),
                )
                for piece in request.pieces
            ],
            caller,
            request.service_class,
        )
        service.memory.step("queue")
        audio_s, queue_s, inference_s = 0.0, 0.0, 0.0
        try:
            for index, ticket in enumerate(job.tickets):
                try:
                    answer = await asyncio.wrap_future(ticket)
                except InvalidInput as error:
                    raise InvalidInput(f"sentence {index + 1} of {len(request.pieces)}: {error.message}", param="text") from None
                speech = Speech.from_payload(answer.payload)
                audio_s += speech.duration_s
                inference_s += answer.inference_s
                queue_s = answer.queue_s if index == 0 else queue_s
                yield SpokenPiece(
                    index, len(request.pieces), request.pieces[index].text, speech, answer.queue_s, answer.inference_s
                )
        finally:
            service.engine.cancel(job)  # does nothing to a job that is over
            service.metrics.audio_seconds.inc(audio_s)
            service.metrics.tokens.inc(round(audio_s * TOKENS_PER_SECOND))
            service.metrics.queue_seconds.observe(queue_s)
            service.metrics.inference_seconds.observe(inference_s)
            log.info(
                "sentences=%d audio=%.2fs queue=%.3fs inference=%.3fs",
                len(request.pieces),
                audio_s,
                queue_s,
                inference_s,
            )

    async def speak(self, request: SpeakRequest, caller: str) -> Spoken:
        """The whole text, joined and encoded."""
        return await self.join([piece async for piece in self.pieces(request, caller)], request.format)

    async def join(self, pieces: list[SpokenPiece], fmt: AudioFormat) -> Spoken:
        """All pieces of one text -> one file."""
        rate = pieces[0].speech.sample_rate
        pcm = np.concatenate([piece.speech.samples for piece in pieces])
        if fmt.name in INLINE_FORMATS:
            audio = encode(pcm, rate, fmt)
        else:
            audio = await self.service.on_host(partial(encode, pcm, rate, fmt))
        self.service.memory.step("post-process")
        return Spoken(audio, fmt, pcm, rate, pieces[0].queue_s, sum(piece.inference_s for piece in pieces))

    async def stream(self, request: SpeakRequest, caller: str) -> AsyncGenerator[bytes]:
        """Encoded bytes, the first as soon as the first sentence is spoken."""
        encoder: StreamEncoder | None = None
        async for piece in self.pieces(request, caller):
            if encoder is None:
                encoder = StreamEncoder(piece.speech.sample_rate, request.format)
            feed = partial(encoder.feed, piece.speech.samples)
            data = feed() if request.format.name in INLINE_FORMATS else await self.service.on_host(feed)
            if data:
                yield data
        assert encoder is not None  # a checked request has at least one piece
        yield encoder.finish()


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise InvalidInput(f"{name} is {value:g}; allowed: {low:g} to {high:g}", param=name)
