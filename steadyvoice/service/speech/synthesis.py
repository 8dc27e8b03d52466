"""One synthesis, from text to audio. Knows engine and media; knows no HTTP and no page."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from dataclasses import replace
from functools import partial

import numpy as np

from steadyvoice.engine.tickets import Answer, Task
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AudioFormat, StreamEncoder, encode
from steadyvoice.media.stretch import stretch
from steadyvoice.media.subtitles import Cue
from steadyvoice.media.text import without_hints
from steadyvoice.protocol import Speech, SynthesizeItem
from steadyvoice.service.service import Service
from steadyvoice.service.speech.request import SpeechOptions, SpeechRequest, check
from steadyvoice.service.speech.result import EncodedSpeech, SpeechReport, SpokenSentence
from steadyvoice.service.usage import Meter, Usage
from steadyvoice.service.voices.store import Voice, VoiceStore

log = logging.getLogger(__name__)

SPEED_TOLERANCE = 0.01  # relative; a speed this near to the requested one is not corrected
# Cheap enough to do on the event loop; a hop to a thread would cost more than the work.
INLINE_FORMATS = ("wav", "pcm")


class Synthesizer:
    """Turns text into speech, many at a time."""

    def __init__(self, service: Service, voices: VoiceStore | None = None) -> None:
        """`voices` for an engine that imitates, and for no other."""
        self.service = service
        self.voices = voices
        self.meter = Meter()

    async def check(self, options: SpeechOptions) -> SpeechRequest:
        """See `speech.request.check`."""
        return await check(options, self.service, self.voices)

    async def pieces(
        self, request: SpeechRequest, caller: str, report: SpeechReport | None = None
    ) -> AsyncGenerator[SpokenSentence]:
        """Sentences in order, each as soon as it is spoken. Closing the iterator cancels the rest.

        Args:
            request: from `check`.
            caller: the engine is shared fairly between callers, and usage is counted by caller.
            report: each sentence is added to it before it is yielded.

        Raises:
            SteadyvoiceError: every subclass that the engine raises.
        """
        service, report = self.service, report or SpeechReport()
        with ExitStack() as borrowed:
            tasks = self._tasks(
                request,
                await self._borrow(request.voice, borrowed),
                await self._borrow(request.emotion_voice, borrowed),
            )
            job = service.submit(tasks, caller, request.service_class)
            service.memory.step("queue")
            try:
                for index, ticket in enumerate(job.tickets):
                    try:
                        answer = await asyncio.wrap_future(ticket)
                    except InvalidInput as error:
                        where = f"sentence {index + 1} of {len(request.pieces)}"
                        raise InvalidInput(f"{where}: {error.message}", param="text") from None
                    piece = await self._piece(request, index, answer, report.duration_s)
                    report.add(piece)
                    self._note_defects(piece)
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

    async def speak(self, request: SpeechRequest, caller: str) -> EncodedSpeech:
        """The whole text, joined and encoded."""
        return await self.join([piece async for piece in self.pieces(request, caller)], request.format)

    async def join(self, pieces: list[SpokenSentence], fmt: AudioFormat) -> EncodedSpeech:
        """All pieces of one text -> one file."""
        report = SpeechReport()
        for piece in pieces:
            report.add(piece)
        rate = pieces[0].speech.sample_rate
        pcm = np.concatenate([piece.speech.samples for piece in pieces])
        if fmt.name in INLINE_FORMATS:
            audio = encode(pcm, rate, fmt)
        else:
            audio = await self.service.threads.run(partial(encode, pcm, rate, fmt))
        self.service.memory.step("post-process")
        return EncodedSpeech(audio, fmt, rate, report)

    async def stream(self, request: SpeechRequest, caller: str, report: SpeechReport | None = None) -> AsyncGenerator[bytes]:
        """Encoded bytes, the first as soon as the first sentence is spoken. `report` as for `pieces`."""
        encoder: StreamEncoder | None = None
        async with aclosing(self.pieces(request, caller, report)) as pieces:
            async for piece in pieces:
                if encoder is None:
                    encoder = StreamEncoder(piece.speech.sample_rate, request.format)
                feed = partial(encoder.feed, piece.speech.samples)
                data = feed() if request.format.name in INLINE_FORMATS else await self.service.threads.run(feed)
                if data:
                    yield data
        assert encoder is not None  # a checked request has at least one piece
        yield encoder.finish()

    async def _borrow(self, voice: Voice | None, borrowed: ExitStack) -> str | None:
        """The file of a voice, which stays until `borrowed` is closed."""
        if voice is None:
            return None
        assert self.voices is not None
        return str(await self.service.threads.run(partial(borrowed.enter_context, self.voices.borrow(voice))))

    def _tasks(self, request: SpeechRequest, reference: str | None, emotion_reference: str | None) -> list[Task]:
        """What the engine is asked, piece by piece."""
        common = SynthesizeItem(
            "",
            "",
            request.speaker,
            request.emotion,
            request.emotion_strength,
            request.speed,
            request.seed,
            reference=reference,
            emotion_reference=emotion_reference,
            emotion_vector=request.emotion_vector,
            emotion_text=request.emotion_text,
        )
        # One that imitates generates the same whatever the speed, and changes it afterwards.
        pace = 1.0 if request.voice else request.speed
        # An estimate orders the jobs; it must never be the reason to refuse a text. Where there is memory for less than the
        # shortest piece, it is tried all the same: the last try takes less. A little under, since the limit is a rounded one.
        longest_s = min(self.service.settings.batch_size_s, 0.999 * (self.service.engine.status().longest_s or float("inf")))
        return [
            Task(
                replace(common, text=piece.text, language=piece.language, expected_s=piece.seconds).to_payload(),
                min(piece.seconds / pace, longest_s),
                request.voice.digest if request.voice else "",
            )
            for piece in request.pieces
        ]

    async def _piece(self, request: SpeechRequest, index: int, answer: Answer, begin_s: float) -> SpokenSentence:
        """An answer of the engine -> a piece that begins, with its pause, at `begin_s` of the whole."""
        speech = Speech.from_payload(answer.payload)
        factor = request.speed / speech.speed
        stretched = abs(factor - 1) > SPEED_TOLERANCE
        if stretched:
            samples = await self.service.threads.run(partial(stretch, speech.samples, speech.sample_rate, factor))
            speech = replace(speech, samples=samples)
        # The pause between sentences follows the speed.
        pause = round(self.service.spec.pause_s / request.speed * speech.sample_rate) if index else 0
        if pause:
            speech = replace(speech, samples=np.concatenate([np.zeros(pause, np.int16), speech.samples]))
        text = request.pieces[index].text
        cue = Cue(begin_s + pause / speech.sample_rate, begin_s + speech.duration_s, without_hints(text).strip())
        return SpokenSentence(index, len(request.pieces), text, cue, speech, stretched, answer.queue_s, answer.inference_s)

    def _note_defects(self, piece: SpokenSentence) -> None:
        """Count and log retries, reduced searches and defects."""
        metrics, speech = self.service.metrics, piece.speech
        metrics.retries.inc(speech.retried)
        metrics.reduced.inc(speech.reduced)
        if speech.defect:
            metrics.defects.labels(speech.defect).inc()
            log.warning("sentence %d of %d has a defect, also at a second try: %s", piece.index + 1, piece.total, speech.defect)

    def _count(self, report: SpeechReport, caller: str) -> None:
        """Count what was synthesized, also if the caller disconnected."""
        metrics = self.service.metrics
        metrics.audio_seconds.inc(report.duration_s)
        metrics.tokens.inc(report.tokens)
        metrics.characters.inc(report.characters)
        metrics.queue_seconds.observe(report.queue_s)
        metrics.inference_seconds.observe(report.inference_s)
        if report.cues:
            self.meter.count(caller, Usage(1, report.characters, report.duration_s, report.tokens))
