"""A transcript as OpenAI's clients read it: JSON, verbose JSON, text, subtitles, server-sent events."""

from __future__ import annotations

import math
import zlib
from collections.abc import AsyncIterator, Collection
from typing import Any, Literal

from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, Field

from steadyvoice.api.errors import error_of
from steadyvoice.api.openapi import ErrorDetail
from steadyvoice.api.streaming import server_sent
from steadyvoice.api.transcription_form import TranscriptionForm
from steadyvoice.errors import SteadyvoiceError
from steadyvoice.media.rich_text import separator
from steadyvoice.media.subtitles import Cue, to_srt, to_vtt, word_cues
from steadyvoice.protocol import TokenScore
from steadyvoice.service.transcription.result import Event, Transcript, TranscriptSegment

NEUTRAL = "the neutral value where the engine cannot tell, see `scores` in `GET /v1/models`"


class Usage(BaseModel):
    """What the request is counted as."""

    type: Literal["duration"]
    seconds: int = Field(ge=0, description="Of audio, rounded up.")
    audio_seconds: float = Field(ge=0)
    tokens: int = Field(ge=0, description="50 per second of audio.")


class LogProb(BaseModel):
    """One token of the text."""

    token: str
    logprob: float = Field(le=0, description="Natural logarithm of its probability: the mean of the rows it was read from.")
    bytes: list[int] = Field(description="The token in UTF-8.")


class Transcription(BaseModel):
    """`response_format` json."""

    text: str
    usage: Usage
    logprobs: list[LogProb] | None = Field(None, description="With `include[]=logprobs`.")


class TimedWord(BaseModel):
    word: str
    start: float = Field(ge=0, description="Seconds from the start of the audio, as all times.")
    end: float = Field(ge=0)


class Segment(BaseModel):
    """Speech between two pauses, or a part of it."""

    id: int = Field(ge=0)
    seek: int = Field(ge=0, description="Its start in hundredths of a second.")
    start: float = Field(ge=0)
    end: float = Field(ge=0)
    text: str
    tokens: list[int] = Field(description=f"Ids in the engine's vocabulary; empty is {NEUTRAL}.")
    temperature: float = Field(description="0: nothing is drawn by chance.")
    avg_logprob: float = Field(le=0, description=f"Mean log probability of its tokens; 0 is {NEUTRAL}.")
    compression_ratio: float = Field(ge=0, description="Bytes of the text over its bytes compressed by zlib, as Whisper has it.")
    no_speech_prob: float = Field(ge=0, le=1, description=f"Probability that there is no speech; 0 is {NEUTRAL}.")
    language: str
    emotion: str | None
    events: list[str]


class EngineName(BaseModel):
    name: str
    revision: str


class Timings(BaseModel):
    queue_s: float
    inference_s: float


class VerboseTranscription(BaseModel):
    """`response_format` verbose_json: OpenAI's fields and ours."""

    task: Literal["transcribe"]
    language: str
    duration: float = Field(ge=0, description="Seconds of audio.")
    text: str
    segments: list[Segment] | None = None
    words: list[TimedWord] | None = None
    no_speech: bool = Field(description="There is no speech in this audio.")
    rich_text: str = Field(description="With emoji, as FunASR writes it.")
    emotion: str | None
    events: list[str]
    usage: Usage
    timings: Timings
    engine: EngineName
    cached: bool


class TextDelta(BaseModel):
    """Sent for each segment."""

    type: Literal["transcript.text.delta"]
    delta: str
    segment: Segment
    logprobs: list[LogProb] | None = None


class TextDone(BaseModel):
    """Sent last."""

    type: Literal["transcript.text.done"]
    text: str
    usage: Usage
    logprobs: list[LogProb] | None = None


class StreamError(BaseModel):
    """Sent last, where the work fails after the status has left."""

    error: ErrorDetail


def headers_of(transcript: Transcript) -> dict[str, str]:
    return {
        "X-Audio-Seconds": f"{transcript.duration:.3f}",
        "X-Tokens": str(transcript.tokens),
        "X-Queue-Seconds": f"{transcript.queue_s:.4f}",
        "X-Inference-Seconds": f"{transcript.inference_s:.4f}",
        "X-Engine": f"{transcript.engine}/{transcript.revision}",
    }


def render(transcript: Transcript, form: TranscriptionForm) -> Response:
    """A transcript in the format that was asked for."""
    headers = headers_of(transcript)
    match form.format:
        case "text":
            return PlainTextResponse(transcript.text + "\n", headers=headers)
        case "srt":
            text = to_srt(cues) if (cues := _cue_per_word(transcript, form)) else transcript.srt
            return PlainTextResponse(text, headers=headers)
        case "vtt":
            text = to_vtt(cues) if (cues := _cue_per_word(transcript, form)) else transcript.vtt
            return PlainTextResponse(text, headers=headers)
        case "verbose_json":
            return JSONResponse(verbose(transcript, form.granularities), headers=headers)
        case _:
            body = {"text": transcript.text, "usage": usage_of(transcript)}
            return JSONResponse(body | _logprobs(transcript.segments, form), headers=headers)


def _cue_per_word(transcript: Transcript, form: TranscriptionForm) -> list[Cue]:
    """Subtitles word by word, where only words were asked for and the engine times them."""
    if form.granularities != {"word"}:
        return []
    return word_cues(word for segment in transcript.segments for word in segment.words)


def verbose(transcript: Transcript, granularities: Collection[str] = ()) -> dict[str, Any]:
    """OpenAI's verbose_json with our fields beside theirs. Where the engine gives no figure, strict clients get a neutral one."""
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text,
        "no_speech": transcript.no_speech,
        "rich_text": transcript.rich_text,
        "emotion": transcript.emotion,
        "events": list(transcript.events),
        "usage": usage_of(transcript),
        "timings": {"queue_s": round(transcript.queue_s, 4), "inference_s": round(transcript.inference_s, 4)},
        "engine": {"name": transcript.engine, "revision": transcript.revision},
        "cached": transcript.cached,
    }
    if not granularities or "segment" in granularities:
        body["segments"] = [segment_fields(segment) for segment in transcript.segments]
    if "word" in granularities:
        body["words"] = [
            {"word": word.text, "start": word.start, "end": word.end} for s in transcript.segments for word in s.words
        ]
    return body


def segment_fields(segment: TranscriptSegment) -> dict[str, Any]:
    scores = segment.scores
    return {
        "id": segment.id,
        "seek": int(segment.start * 100),
        "start": segment.start,
        "end": segment.end,
        "text": segment.text,
        "tokens": list(scores.tokens),
        "temperature": 0.0,
        "avg_logprob": scores.avg_logprob,
        "compression_ratio": round(compression_ratio(segment.text), 6),
        "no_speech_prob": scores.no_speech_prob,
        "language": segment.language,
        "emotion": segment.emotion,
        "events": list(segment.events),
    }


def compression_ratio(text: str) -> float:
    """How much shorter zlib makes the text: over 2.4 it repeats itself. As in Whisper's `whisper/utils.py`."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def usage_of(transcript: Transcript) -> dict[str, Any]:
    return {
        "type": "duration",
        "seconds": math.ceil(transcript.duration),
        "audio_seconds": transcript.duration,
        "tokens": transcript.tokens,
    }


def _logprobs(segments: Collection[TranscriptSegment], form: TranscriptionForm) -> dict[str, Any]:
    """The field `logprobs`, if it was asked for."""
    if not form.options.logprobs:
        return {}
    return {"logprobs": [_logprob(token) for segment in segments for token in segment.scores.logprobs]}


def _logprob(token: TokenScore) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode())}


async def events_of(events: AsyncIterator[Event], form: TranscriptionForm) -> AsyncIterator[bytes]:
    """transcript.text.delta per segment, then transcript.text.done, as server-sent events."""
    so_far = ""
    try:
        async for event in events:
            if isinstance(event, TranscriptSegment) and event.text:
                delta = separator(so_far, event.language) + event.text
                so_far += delta
                told = {"delta": delta, "segment": segment_fields(event)} | _logprobs((event,), form)
                yield server_sent({"type": "transcript.text.delta", **told})
            elif isinstance(event, Transcript):
                told = {"text": event.text, "usage": usage_of(event)} | _logprobs(event.segments, form)
                yield server_sent({"type": "transcript.text.done", **told})
    except SteadyvoiceError as error:
        # The status has left already; OpenAI's SDK raises on an event with an error in it.
        yield b"event: error\n" + server_sent(error_of(error))
