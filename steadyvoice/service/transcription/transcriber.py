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
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.engine.tickets import JobHandle, Task
from steadyvoice.engine_specs import RECOGNITION_LANGUAGES, SAMPLE_RATE
from steadyvoice.errors import InvalidInput, TooLarge
from steadyvoice.media.decode import DecodeLimits, decode_steps
from steadyvoice.media.segment import SegmentOptions, Span, segment_steps
from steadyvoice.media.sliced_work import Steps
from steadyvoice.protocol import Recognition, RecognizeItem
from steadyvoice.service.result_cache import ResultCache
from steadyvoice.service.service import Service
from steadyvoice.service.transcription.result import (
    Event,
    Progress,
    Transcript,
    TranscriptionOptions,
    TranscriptSegment,
    segment_of,
    size_of,
    transcript_of,
)

log = logging.getLogger(__name__)

PROGRESS_S = 0.5  # between two progress events of a waiting request
HASH_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class _Upload:
    """An upload that has been read: its key in the cache, and its samples, or the transcript that is known of it."""

    key: tuple[str, TranscriptionOptions]
    content: NDArray[np.float32] | Transcript


@dataclass
class _Recognized:
    """The segments so far, and what they took."""

    segments: list[TranscriptSegment] = field(default_factory=list)
    queue_s: float = math.inf  # until the first batch of the job
    inference_s: float = 0.0

    def add(self, segment: TranscriptSegment, queue_s: float, inference_s: float) -> None:
        self.segments.append(segment)
        self.queue_s = min(self.queue_s, queue_s)
        self.inference_s += inference_s


class Transcriber:
    """Turns uploads into transcripts, many at a time."""

    def __init__(self, service: Service) -> None:
        self.service = service
        settings = service.settings
        self._limits = DecodeLimits(settings.max_audio_s)
        self._cache: ResultCache[Transcript] = ResultCache(int(settings.result_cache_mb * 1e6), size_of)

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
            caller: see `admission.identity`; the engine is shared fairly between callers.

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
        del read  # `samples` must hold the only reference, so that they can be freed
        service.memory.step("decode")
        segmenting = asyncio.ensure_future(self._segmented(samples, options, began))
        async with aclosing(_progress("segmenting", segmenting)) as progress:
            async for event in progress:
                yield event
        spans = segmenting.result()
        try:
            job = self._submit(samples, spans, options, caller, began)
        except TooLarge:  # the model was loaded again meanwhile, and has less memory
            spans = await self._segmented(samples, options, began)
            job = self._submit(samples, spans, options, caller, began)
        duration = len(samples) / SAMPLE_RATE
        del samples  # the engine holds what it needs
        service.memory.step("queue")
        recognized = _Recognized()
        recognizing = self._recognize(job, spans, recognized)
        del job  # its tickets would keep every answer until the end
        async with aclosing(recognizing) as news:
            async for item in news:
                yield item
        yield Progress("finishing", 0, len(spans), len(spans))
        transcript = await service.threads.run(partial(self._finish, recognized, duration))
        self._cache.put(key, transcript)
        service.memory.step("post-process")
        log.info(
            "audio=%.1fs segments=%d queue=%.3fs inference=%.3fs",
            duration,
            len(transcript.segments),
            transcript.queue_s,
            transcript.inference_s,
        )
        yield transcript

    async def _recognize(
        self, job: JobHandle, spans: Sequence[Span], recognized: _Recognized
    ) -> AsyncGenerator[Progress | TranscriptSegment]:
        """The segments of a job as the engine answers, which are added to `recognized` too. Closing it cancels the job."""
        # Tickets are dropped once they are read: of an hour, the answers take more memory than the transcript made of them.
        tickets, job = deque(job.tickets), replace(job, tickets=())
        try:
            for index, span in enumerate(spans):
                wrapped = asyncio.wrap_future(tickets.popleft())
                wrapped.add_done_callback(consume_exception)
                while True:
                    place = self.service.engine.place(job)
                    yield Progress("waiting" if place else "recognizing", place, index, len(spans))
                    if (await asyncio.wait({wrapped}, timeout=PROGRESS_S))[0]:
                        break
                answer = wrapped.result()
                segment = segment_of(index, span, Recognition.from_payload(answer.payload))
                recognized.add(segment, answer.queue_s, answer.inference_s)
                yield segment
        finally:
            self.service.engine.cancel(job)  # does nothing to a job that is over

    def _read_steps(self, file: BinaryIO, options: TranscriptionOptions) -> Steps[_Upload]:
        """Decode an upload, unless the answer to it is known. Raises as `decode_steps`, and EngineUnavailable before it."""
        key = ((yield from _hash_steps(file)), options)
        known = self._cache.get(key)
        if known is not None:
            return _Upload(key, known)
        self.service.admission.breaker.check()
        return _Upload(key, (yield from decode_steps(file, self._limits)))

    async def _segmented(self, samples: NDArray[np.float32], options: TranscriptionOptions, began: float) -> list[Span]:
        """Spans of speech, cut as short as the device needs it. That is known once the model has loaded, which goes on
        meanwhile; `submit` raises the error of a load that fails."""
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

    def _finish(self, recognized: _Recognized, duration: float) -> Transcript:
        """Put the transcript together, and count it."""
        metrics = self.service.metrics
        queue_s = recognized.queue_s if recognized.segments else 0.0
        transcript = transcript_of(
            tuple(recognized.segments), duration, self.service.spec.name, self.service.revision, queue_s, recognized.inference_s
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
    """Read the exception of a future whose caller was cancelled: asyncio logs an exception that is never read."""
    if not future.cancelled():
        future.exception()


def _hash_steps(file: BinaryIO) -> Steps[str]:
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(HASH_BLOCK):
        digest.update(block)
        yield
    file.seek(0)
    return digest.hexdigest()
