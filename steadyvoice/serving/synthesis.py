"""One synthesis, from text to audio. Knows engine and media; knows no HTTP and no page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from steadyvoice.catalogue import EMOTIONS, OPENAI_VOICES, SPEECH_LANGUAGES
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine.tickets import Answer, Task
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AudioFormat, StreamEncoder, audio_format, encode
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED, stretch
from steadyvoice.media.subtitles import Cue
from steadyvoice.media.text import HAN, Piece, clean, split
from steadyvoice.protocol import Speech, SynthesizeItem
from steadyvoice.serving.service import Service
from steadyvoice.serving.spoken import Report, Spoken, SpokenPiece
from steadyvoice.serving.usage import Meter, Usage

log = logging.getLogger(__name__)

SPEED_TOLERANCE = 0.01  # a pace that is so near to the one asked for is left alone
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

    @property
    def characters(self) -> int:
        """Of the cleaned text: what counts as input. The engine's own tokens are not known in this process."""
        return sum(len(piece.text) for piece in self.pieces)

    @property
    def expected_s(self) -> float:
        """A rough estimate of how long the audio will be."""
        return sum(piece.seconds for piece in self.pieces) / self.speed


class Synthesizer:
    """Turns text into speech, many at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.meter = Meter()

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

    async def pieces(self, request: SpeakRequest, caller: str, report: Report | None = None) -> AsyncGenerator[SpokenPiece]:
        """Sentences in order, each as soon as it is spoken. Closing the iterator cancels the rest.

        Args:
            request: from `check`.
            caller: who is served fairly against others, and whose usage it is.
            report: hears of each piece before it is yielded.

        Raises:
            SteadyvoiceError: every subclass that the engine raises.
        """
        service, report = self.service, report or Report()
        job = service.submit(self._tasks(request), caller, request.service_class)
        service.memory.step("queue")
        try:
            for index, ticket in enumerate(job.tickets):
                try:
                    answer = await asyncio.wrap_future(ticket)
                except InvalidInput as error:
                    raise InvalidInput(f"sentence {index + 1} of {len(request.pieces)}: {error.message}", param="text") from None
                piece = await self._piece(request, index, answer, report.duration_s)
                report.add(piece)
                self._look_at(piece)
                yield piece
        finally:
            service.engine.cancel(job)  # does nothing to a job that is over
            self._count(report, caller)
            log.info(
                "sentences=%d audio=%.2fs queue=%.3fs inference=%.3fs",
                len(request.pieces),
                report.duration_s,
                report.queue_s,
                report.inference_s,
            )

    async def speak(self, request: SpeakRequest, caller: str) -> Spoken:
        """The whole text, joined and encoded."""
        return await self.join([piece async for piece in self.pieces(request, caller)], request.format)

    async def join(self, pieces: list[SpokenPiece], fmt: AudioFormat) -> Spoken:
        """All pieces of one text -> one file."""
        report = Report()
        for piece in pieces:
            report.add(piece)
        rate = pieces[0].speech.sample_rate
        pcm = np.concatenate([piece.speech.samples for piece in pieces])
        if fmt.name in INLINE_FORMATS:
            audio = encode(pcm, rate, fmt)
        else:
            audio = await self.service.on_host(partial(encode, pcm, rate, fmt))
        self.service.memory.step("post-process")
        return Spoken(audio, fmt, rate, report)

    async def stream(self, request: SpeakRequest, caller: str, report: Report | None = None) -> AsyncGenerator[bytes]:
        """Encoded bytes, the first as soon as the first sentence is spoken. `report` as for `pieces`."""
        encoder: StreamEncoder | None = None
        async with aclosing(self.pieces(request, caller, report)) as pieces:
            async for piece in pieces:
                if encoder is None:
                    encoder = StreamEncoder(piece.speech.sample_rate, request.format)
                feed = partial(encoder.feed, piece.speech.samples)
                data = feed() if request.format.name in INLINE_FORMATS else await self.service.on_host(feed)
                if data:
                    yield data
        assert encoder is not None  # a checked request has at least one piece
        yield encoder.finish()

    def _tasks(self, request: SpeakRequest) -> list[Task]:
        """What the engine is asked, piece by piece."""
        common = SynthesizeItem("", "", request.speaker, request.emotion, request.emotion_strength, request.speed, request.seed)
        return [
            Task(
                replace(common, text=piece.text, language=piece.language, expected_s=piece.seconds).to_payload(),
                # An estimate decides who goes when; it must never be the reason to refuse a text.
                min(piece.seconds / request.speed, self.service.settings.batch_size_s),
            )
            for piece in request.pieces
        ]

    async def _piece(self, request: SpeakRequest, index: int, answer: Answer, begin_s: float) -> SpokenPiece:
        """An answer of the engine -> a piece that begins, with its pause, at `begin_s` of the whole."""
        speech = Speech.from_payload(answer.payload)
        factor = request.speed / speech.speed
        stretched = abs(factor - 1) > SPEED_TOLERANCE
        if stretched:
            samples = await self.service.on_host(partial(stretch, speech.samples, speech.sample_rate, factor))
            speech = replace(speech, samples=samples)
        # A pause is part of how fast somebody speaks.
        pause = round(self.service.card.pause_s / request.speed * speech.sample_rate) if index else 0
        if pause:
            speech = replace(speech, samples=np.concatenate([np.zeros(pause, np.int16), speech.samples]))
        text = request.pieces[index].text
        cue = Cue(begin_s + pause / speech.sample_rate, begin_s + speech.duration_s, text.strip())
        return SpokenPiece(index, len(request.pieces), text, cue, speech, stretched, answer.queue_s, answer.inference_s)

    def _look_at(self, piece: SpokenPiece) -> None:
        """Count what is not as it should be, and say so in the log."""
        metrics, speech = self.service.metrics, piece.speech
        metrics.retries.inc(speech.retried)
        metrics.reduced.inc(speech.reduced)
        if speech.defect:
            metrics.defects.labels(speech.defect).inc()
            log.warning("sentence %d of %d has a defect, also at a second try: %s", piece.index + 1, piece.total, speech.defect)

    def _count(self, report: Report, caller: str) -> None:
        """What was spoken counts, also where the caller did not stay to hear it."""
        metrics = self.service.metrics
        metrics.audio_seconds.inc(report.duration_s)
        metrics.tokens.inc(report.tokens)
        metrics.characters.inc(report.characters)
        metrics.queue_seconds.observe(report.queue_s)
        metrics.inference_seconds.observe(report.inference_s)
        if report.cues:
            self.meter.count(caller, Usage(1, report.characters, report.duration_s, report.tokens))


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # also refuses NaN
        raise InvalidInput(f"{name} is {value:g}; allowed: {low:g} to {high:g}", param=name)
