"""One transcription, from an open upload to a transcript. Knows engine and media; knows no HTTP and no page.

Both the routes and the page consume the same stream of events: progress, then segments in order as they come, then the
transcript.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine.tickets import JobHandle, Task
from steadyvoice.engine_specs import RECOGNITION_LANGUAGES, TOKENS_PER_SECOND
from steadyvoice.errors import InvalidInput, TooLarge
from steadyvoice.media.decode import SAMPLE_RATE, DecodeLimits, decode_steps
from steadyvoice.media.rich_text import RichSegment, funasr_rich_text, join_text, rich_text
from steadyvoice.media.segment import DEFAULT_DETECTION, SegmentOptions, Span, SpeechDetection, segment_steps
from steadyvoice.media.steps import Steps
from steadyvoice.media.subtitles import Cue, cues_of, to_srt, to_vtt
from steadyvoice.media.words import WORD_BYTES, PackedWords
from steadyvoice.protocol import NO_SCORES, Recognition, RecognizeItem, Scores, Word
from steadyvoice.service.result_cache import ResultCache
from steadyvoice.service.service import Service

log = logging.getLogger(__name__)

PROGRESS_S = 0.5  # how often a waiting caller hears where it stands
HASH_BLOCK = 1 << 20  # bytes
UNKNOWN_EMOTION = "EMO_UNKNOWN"
NO_LANGUAGE = frozenset({"nospeech", "auto"})


@dataclass(frozen=True)
class TranscriptionOptions:
    """What a caller may choose."""

    language: str = "auto"
    use_itn: bool = True
    merge_length_s: float | None = None  # None: the server's setting
    service_class: ServiceClass = ServiceClass.INTERACTIVE
    logprobs: bool = False  # of each token, for an engine that gives them
    detection: SpeechDetection = DEFAULT_DETECTION


@dataclass(frozen=True)
class Progress:
    """Where a request stands. `place` counts those before it in the queue, itself included; 0 once it is being worked on."""

    stage: str  # decoding, segmenting, waiting, recognizing, finishing
    place: int = 0
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class TranscriptSegment:
    """One segment with its times in seconds from the start of the audio."""

    id: int
    start: float
    end: float
    text: str
    language: str
    emotion: str | None
    events: tuple[str, ...]
    words: PackedWords
    scores: Scores = NO_SCORES


@dataclass(frozen=True)
class Transcript:
    """The whole answer."""

    text: str
    rich_text: str  # as FunASR's users know it
    page_text: str  # the same with spaces between the segments
    language: str
    emotion: str | None
    events: tuple[str, ...]
    duration: float  # seconds
    segments: tuple[TranscriptSegment, ...]
    srt: str
    vtt: str
    engine: str
    revision: str
    queue_s: float
    inference_s: float
    cached: bool = False

    @property
    def no_speech(self) -> bool:
        """Nobody speaks in this audio."""
        return not any(segment.text for segment in self.segments)

    @property
    def tokens(self) -> int:
        return round(self.duration * TOKENS_PER_SECOND)


Event = Progress | TranscriptSegment | Transcript


@dataclass(frozen=True)
class _Upload:
    """An upload that has been read: its key in the cache, and its samples, or the transcript that is known of it."""

    key: tuple[str, TranscriptionOptions]
    content: NDArray[np.float32] | Transcript


class Transcriber:
    """StoppedTabs uploads into transcripts, many at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        settings = service.settings
        self._limits = DecodeLimits(settings.max_audio_s)
        self._cache: ResultCache[Transcript] = ResultCache(int(settings.result_cache_mb * 1e6), _size_of)

    def check(self, options: TranscriptionOptions) -> TranscriptionOptions:
        """Validate, and bring the language into its short form ("en-US" -> "en").

        Raises:
            InvalidInput: naming the value and the choices.
        """
        spec, settings = self.service.spec, self.service.settings
        language = (options.language or "auto").lower().replace("_", "-").split("-")[0]
        if language not in RECOGNITION_LANGUAGES:
            raise InvalidInput(
                f"language {options.language[:32]!r} is unknown; known: {', '.join(RECOGNITION_LANGUAGES)}", param="language"
            )
        if language not in spec.languages:
            raise InvalidInput(
                f"language {language!r} is not available with engine {spec.name}, which knows: {', '.join(spec.languages)}",
                param="language",
            )
        merge = settings.default_merge_length_s if options.merge_length_s is None else options.merge_length_s
        if not 0 <= merge <= settings.max_segment_s:  # also refuses NaN
            raise InvalidInput(
                f"merge_length_s is {merge:g}; allowed: 0 to {settings.max_segment_s:g} seconds", param="merge_length_s"
            )
        return replace(options, language=language, merge_length_s=merge)

    async def transcribe(self, file: BinaryIO, options: TranscriptionOptions, caller: str) -> AsyncGenerator[Event]:
        """Events of one request. Closing the iterator cancels the request.

        Args:
            file: open, seekable, within the upload limit. Its name is never looked at.
            options: from `check`.
            caller: who is served fairly against others: an address, a session.

        Raises:
            SteadyvoiceError: every subclass that decode and engine raise.
        """
        service, began = self.service, time.monotonic()
        key_options = replace(options, service_class=ServiceClass.INTERACTIVE)
        reading = asyncio.ensure_future(service.threads.run_sliced(self._read_steps(file, key_options)))
        async with aclosing(_progress("decoding", reading)) as progress:
            async for event in progress:
                yield event
        read = reading.result()
        del reading
        if isinstance(read.content, Transcript):
            known = read.content
            service.metrics.cache_hits.inc()
            for done in known.segments:
                yield done
            yield replace(known, cached=True, queue_s=0.0, inference_s=0.0)
            return
        key, samples = read.key, read.content
        del read  # nothing but `samples` is to hold them
        service.memory.step("decode")
        segmenting = asyncio.ensure_future(self._segmented(samples, options, began))
        async with aclosing(_progress("segmenting", segmenting)) as progress:
            async for event in progress:
                yield event
        spans = segmenting.result()
        try:
            job = self._submit(samples, spans, options, caller, began)
        except TooLarge:  # the model was loaded anew meanwhile, and has less room
            spans = await self._segmented(samples, options, began)
            job = self._submit(samples, spans, options, caller, began)
        duration = len(samples) / SAMPLE_RATE
        del samples  # the engine holds what it needs
        service.memory.step("queue")
        segments: list[TranscriptSegment] = []
        queue_s, inference_s = math.inf, 0.0
        # What has been read is let go: of an hour, answers take more than the transcript that is made of them.
        tickets, job = deque(job.tickets), replace(job, tickets=())
        try:
            for index, span in enumerate(spans):
                wrapped = asyncio.wrap_future(tickets.popleft())
                wrapped.add_done_callback(consume_exception)
                while True:
                    place = service.engine.place(job)
                    yield Progress("waiting" if place else "recognizing", place, index, len(spans))
                    if (await asyncio.wait({wrapped}, timeout=PROGRESS_S))[0]:
                        break
                answer = wrapped.result()
                queue_s, inference_s = min(queue_s, answer.queue_s), inference_s + answer.inference_s
                segments.append(_to_segment(index, span, Recognition.from_payload(answer.payload)))
                yield segments[-1]
        finally:
            service.engine.cancel(job)  # does nothing to a job that is over
        yield Progress("finishing", 0, len(spans), len(spans))
        finish = partial(self._finish, tuple(segments), duration, queue_s if segments else 0.0, inference_s)
        transcript = await service.threads.run(finish)
        self._cache.put(key, transcript)
        service.memory.step("post-process")
        log.info(
            "audio=%.1fs segments=%d queue=%.3fs inference=%.3fs",
            duration,
            len(segments),
            transcript.queue_s,
            transcript.inference_s,
        )
        yield transcript

    def _read_steps(self, file: BinaryIO, options: TranscriptionOptions) -> Steps[_Upload]:
        """Decode an upload, unless the answer to it is known. Raises as `decode_steps`, and EngineUnavailable before it."""
        key = ((yield from _hash_steps(file)), options)
        known = self._cache.get(key)
        if known is not None:
            return _Upload(key, known)
        self.service.admission.breaker.check()
        return _Upload(key, (yield from decode_steps(file, self._limits)))

    async def _segmented(self, samples: NDArray[np.float32], options: TranscriptionOptions, began: float) -> list[Span]:
        """Where somebody speaks, cut as short as the device needs it: that is known once the model has loaded, which goes on
        meanwhile. A load that fails is left to `submit` to tell."""
        service = self.service
        loaded = asyncio.wrap_future(service.engine.load())
        loaded.add_done_callback(consume_exception)
        cuts = self._cuts(options)
        spans = await service.threads.run_sliced(segment_steps(samples, cuts))
        await asyncio.wait({loaded}, timeout=max(0.0, began + service.settings.request_timeout_s - time.monotonic()))
        if (shorter := self._cuts(options)) != cuts:
            spans = await service.threads.run_sliced(segment_steps(samples, shorter))
        service.memory.step("segment")
        return spans

    def _cuts(self, options: TranscriptionOptions) -> SegmentOptions:
        """As asked, as set, and as the device takes them."""
        assert options.merge_length_s is not None
        wanted, fits = self.service.settings.max_segment_s, self.service.engine.status().longest_s
        if fits < wanted:
            log.warning("segments are cut to %.1f s instead of %g s: no more fits the device", fits, wanted)
        longest = min(wanted, fits)
        return SegmentOptions(min(options.merge_length_s, longest), longest, options.detection)

    def _submit(
        self, samples: NDArray[np.float32], spans: Sequence[Span], options: TranscriptionOptions, caller: str, began: float
    ) -> JobHandle:
        """One task per span; the payloads are views of `samples`, copied only when they are sent."""
        tasks = [
            Task(
                RecognizeItem(samples[span.start : span.end], options.language, options.use_itn, options.logprobs).to_payload(),
                span.length / SAMPLE_RATE,
            )
            for span in spans
        ]
        return self.service.submit(tasks, caller, options.service_class, spent_s=time.monotonic() - began)

    def _finish(self, segments: tuple[TranscriptSegment, ...], duration: float, queue_s: float, inference_s: float) -> Transcript:
        """Off the hot path: join the text, make the views."""
        metrics = self.service.metrics
        cues = [cue for s in segments for cue in cues_of(Cue(s.start, s.end, s.text), tuple(s.words))]
        rich = [RichSegment(s.text, s.language, s.emotion, s.events) for s in segments]
        languages = Counter(s.language for s in segments if s.language not in NO_LANGUAGE)
        emotions = Counter(s.emotion for s in segments if s.emotion and s.emotion != UNKNOWN_EMOTION)
        transcript = Transcript(
            text=join_text([(s.text, s.language) for s in segments]),
            rich_text=funasr_rich_text(rich),
            page_text=rich_text(rich),
            language=languages.most_common(1)[0][0] if languages else "auto",
            emotion=emotions.most_common(1)[0][0] if emotions else None,
            events=tuple(dict.fromkeys(event for s in segments for event in s.events)),
            duration=round(duration, 3),
            segments=segments,
            srt=to_srt(cues),
            vtt=to_vtt(cues),
            engine=self.service.spec.name,
            revision=self.service.revision,
            queue_s=queue_s,
            inference_s=inference_s,
        )
        metrics.queue_seconds.observe(transcript.queue_s)
        metrics.inference_seconds.observe(transcript.inference_s)
        metrics.audio_seconds.inc(duration)
        metrics.tokens.inc(transcript.tokens)
        return transcript


async def finished(events: AsyncIterator[Event]) -> Transcript:
    """Read to the end and give the transcript."""
    async for event in events:
        if isinstance(event, Transcript):
            return event
    raise AssertionError("a transcription ended without a transcript")


async def _progress(stage: str, work: asyncio.Future[Any]) -> AsyncGenerator[Progress]:
    """Where a request stands, until `work` is done. Closing it cancels the work and waits for its end."""
    try:
        while True:
            yield Progress(stage)
            if (await asyncio.wait({work}, timeout=PROGRESS_S))[0]:
                return
    finally:
        if work.cancel():
            await asyncio.wait({work})
        work.add_done_callback(consume_exception)


def consume_exception(future: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody is there to hear any more: its caller pressed Stop."""
    if not future.cancelled():
        future.exception()


def _to_segment(index: int, span: Span, recognition: Recognition) -> TranscriptSegment:
    words = PackedWords.of(
        Word(word.text, round(span.start_s + word.start, 3), round(span.start_s + word.end, 3)) for word in recognition.words
    )
    return TranscriptSegment(
        id=index,
        start=round(span.start_s, 3),
        end=round(span.end_s, 3),
        text=recognition.text,
        language=recognition.language,
        emotion=recognition.emotion,
        events=recognition.events,
        words=words,
        scores=recognition.scores,
    )


def _hash_steps(file: BinaryIO) -> Steps[str]:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(HASH_BLOCK):
        digest.update(block)
        yield
    file.seek(0)
    return digest.hexdigest()


def _size_of(transcript: Transcript) -> int:
    """Bytes that a transcript takes in memory, roughly and rather too much."""
    texts = (
        transcript.text,
        transcript.rich_text,
        transcript.page_text,
        transcript.srt,
        transcript.vtt,
        *(s.text for s in transcript.segments),
    )
    words = sum(len(s.words) for s in transcript.segments)
    scored = sum(s.scores.bytes for s in transcript.segments)
    return 1_000 + 4 * sum(map(len, texts)) + 1_000 * len(transcript.segments) + WORD_BYTES * words + scored
