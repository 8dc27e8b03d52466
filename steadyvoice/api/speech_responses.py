"""HTTP responses with speech: a whole file, bytes from the first sentence on, server-sent events, or a cached answer. The work is
in `service.speech`."""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import AsyncIterator, Hashable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Literal

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from steadyvoice.admission.identity import caller_of
from steadyvoice.api.errors import error_of
from steadyvoice.api.streaming import SpooledResponse, cancel_on_disconnect, server_sent
from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.errors import InvalidInput, SteadyvoiceError
from steadyvoice.service.speech.idempotency import CachedResponse, Claim, IdempotencyCache
from steadyvoice.service.speech.request import SpeechRequest
from steadyvoice.service.speech.result import SpeechReport
from steadyvoice.service.speech.subtitle_store import SubtitleStore
from steadyvoice.service.speech.synthesis import Synthesizer

log = logging.getLogger(__name__)

IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
SENTENCES_TOLD = 100  # in one header, which proxies bound
NO_STORE = {"Cache-Control": "no-store"}


class Delivery(Enum):
    """How an answer is delivered."""

    WHOLE = "whole"
    STREAMED = "streamed"
    EVENTS = "events"


class AudioDelta(BaseModel):
    """A server-sent event: bytes of the audio file, in base64."""

    type: Literal["speech.audio.delta"]
    audio: str


class TokenUsage(BaseModel):
    """Characters of the cleaned text, and 50 per second of audio."""

    input_tokens: int
    output_tokens: int
    total_tokens: int


class SentenceDefect(BaseModel):
    sentence: int
    defect: str


class AudioDone(BaseModel):
    """The last server-sent event."""

    type: Literal["speech.audio.done"]
    usage: TokenUsage
    audio_seconds: float
    speech_id: str
    speed_method: str
    defects: list[SentenceDefect]
    reduced: list[int]


@dataclass
class SpeechStream:
    """A stream in progress: its report, and its bytes if it has an Idempotency-Key, for a retry."""

    speech_id: str
    media_type: str
    claim: Claim | None
    room: int  # bytes
    report: SpeechReport = field(default_factory=SpeechReport)
    body: bytearray = field(default_factory=bytearray)

    def note(self, data: bytes) -> bytes:
        if self.claim is not None and len(self.body) <= self.room:
            self.body += data
        return data


class SpeechResponder:
    """Answers the requests of one synthesiser."""

    def __init__(self, synthesizer: Synthesizer, subtitles: SubtitleStore) -> None:
        self._synthesizer = synthesizer
        self._service = synthesizer.service
        self._subtitles = subtitles
        self._cache = IdempotencyCache(int(self._service.settings.result_cache_mb * 1e6))

    async def answer(self, request: Request, speak: SpeechRequest, delivery: Delivery) -> Response:
        """
        Raises:
            InvalidInput: the Idempotency-Key is malformed, or was for another body.
            InProgress: the first request with this key is still at work.
            SteadyvoiceError: what goes wrong before the first byte has left.
        """
        caller = caller_of(request)
        claim = await claim_of(request, caller)
        if (known := self._cache.find(claim)) is not None:
            return self._cached_response(known)
        async with AsyncExitStack() as hold:
            hold.enter_context(self._cache.claimed(claim))
            speech_id = hold.enter_context(self._subtitles.speaking())
            if delivery is Delivery.WHOLE:
                if (known := self._cache.find_content(self._content(speak))) is not None:
                    # The audio is shared between callers, the speech id is not: each caller gets an id of its own.
                    known = replace(known, speech_id=speech_id, headers={**known.headers, "X-Speech-Id": speech_id})
                    self._cache.keep(known, claim)
                    return self._cached_response(known)
                with self._service.admission.admitted(request):
                    return await self._whole(request, speak, speech_id, claim)
            hold.enter_context(self._service.admission.admitted(request))
            media_type = "text/event-stream" if delivery is Delivery.EVENTS else speak.format.media_type
            out = SpeechStream(speech_id, media_type, claim, self._cache.max_bytes)
            audio = await hold.enter_async_context(aclosing(self._synthesizer.stream(speak, caller, out.report)))
            # The first sentence decides between an error status and a stream.
            first = await cancel_on_disconnect(request, anext(audio))
            send = self._events if delivery is Delivery.EVENTS else self._audio
            return SpooledResponse(
                send(_from(first, audio), out),
                hold.pop_all(),
                self._service.settings.request_timeout_s,
                media_type=media_type,
                # How long it will be is not known yet: these headers cannot say what a whole file's say.
                headers={
                    "X-Characters": str(speak.characters),
                    "X-Engine": self._engine(),
                    "X-Speech-Id": speech_id,
                    **NO_STORE,
                },
            )

    async def _whole(self, request: Request, speak: SpeechRequest, speech_id: str, claim: Claim | None) -> Response:
        spoken = await cancel_on_disconnect(request, self._synthesizer.speak(speak, caller_of(request)))
        report, media_type = spoken.report, spoken.format.media_type
        answer = CachedResponse(spoken.audio, media_type, self._headers(report, speech_id), speech_id, report.cues)
        self._subtitles.keep(speech_id, answer.cues)
        # A defective answer is not cached by content: another synthesis may be better.
        self._cache.keep(answer, claim, None if report.defects or report.reduced else self._content(speak))
        return Response(answer.body, media_type=media_type, headers=answer.headers)

    async def _audio(self, audio: AsyncIterator[bytes], out: SpeechStream) -> AsyncIterator[bytes]:
        """The bytes as they come. An error in the middle cuts the connection: half a file must not look like a whole one."""
        async for data in audio:
            yield out.note(data)
        self._finish(out)

    async def _events(self, audio: AsyncIterator[bytes], out: SpeechStream) -> AsyncIterator[bytes]:
        """speech.audio.delta as the bytes come, then speech.audio.done: OpenAI's events, with our fields in the last."""
        try:
            async for data in audio:
                if data:
                    yield out.note(server_sent({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()}))
        except SteadyvoiceError as error:  # the status has left already
            log.warning("a stream of events ends with an error: %s", error.code)
            yield server_sent({"type": "error", **error_of(error)})
            return
        report = out.report
        done = {
            "type": "speech.audio.done",
            "usage": {
                "input_tokens": report.characters,
                "output_tokens": report.tokens,
                "total_tokens": report.characters + report.tokens,
            },
            "audio_seconds": round(report.duration_s, 3),
            "speech_id": out.speech_id,
            "speed_method": report.speed_method,
            "defects": [{"sentence": number, "defect": defect} for number, defect in report.defects],
            "reduced": report.reduced,
        }
        last = out.note(server_sent(done))
        self._finish(out)
        yield last

    def _finish(self, out: SpeechStream) -> None:
        """The stream is complete: keep its subtitles, and its bytes for a retry."""
        self._subtitles.keep(out.speech_id, out.report.cues)
        if out.claim is not None and len(out.body) <= out.room:
            headers = self._headers(out.report, out.speech_id) | NO_STORE
            self._cache.keep(CachedResponse(bytes(out.body), out.media_type, headers, out.speech_id, out.report.cues), out.claim)

    def _cached_response(self, known: CachedResponse) -> Response:
        """A cached answer; its subtitles are kept for another period."""
        self._service.metrics.cache_hits.inc()
        self._subtitles.keep(known.speech_id, known.cues)
        headers = {**known.headers, "X-Queue-Seconds": _timing(0), "X-Inference-Seconds": _timing(0), "X-Cached": "true"}
        return Response(known.body, media_type=known.media_type, headers=headers)

    def _content(self, speak: SpeechRequest) -> Hashable:
        """The cache key of a whole answer; None where the same request may give different audio."""
        service = self._service
        if service.engine.status().model is None or (service.spec.seeded and speak.seed is None):
            return None
        return replace(speak, service_class=ServiceClass.INTERACTIVE), service.revision

    def _headers(self, report: SpeechReport, speech_id: str) -> dict[str, str]:
        headers = {
            "X-Audio-Seconds": f"{report.duration_s:.3f}",
            "X-Tokens": str(report.tokens),
            "X-Characters": str(report.characters),
            "X-Queue-Seconds": _timing(report.queue_s),
            "X-Inference-Seconds": _timing(report.inference_s),
            "X-Engine": self._engine(),
            "X-Speech-Id": speech_id,
            "X-Speed-Method": report.speed_method,
        }
        if report.defects:
            headers["X-Speech-Defects"] = ",".join(f"{number}:{defect}" for number, defect in report.defects[:SENTENCES_TOLD])
        if report.reduced:
            headers["X-Speech-Reduced"] = ",".join(map(str, report.reduced[:SENTENCES_TOLD]))
        return headers

    def _engine(self) -> str:
        return f"{self._service.spec.name}/{self._service.revision}"


async def claim_of(request: Request, caller: str) -> Claim | None:
    """The caller's Idempotency-Key for this very body, byte for byte. Raises InvalidInput."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput(
            f"the Idempotency-Key has {len(key)} characters; allowed: 1 to 255 printable ASCII characters",
            param="Idempotency-Key",
        )
    # No body is valid on two routes, so the digest identifies the route too.
    return Claim(caller, key, hashlib.sha256(await request.body()).hexdigest())


def _timing(seconds: float) -> str:
    return f"{seconds:.4f}"


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data
