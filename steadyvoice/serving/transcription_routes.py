"""POST /v1/audio/transcriptions as OpenAI's SDK calls it, in five formats and streaming. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, BinaryIO

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.datastructures import FormData, UploadFile

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.errors import EngineUnavailable, InvalidInput, Overloaded, SteadyvoiceError, TooLarge
from steadyvoice.media.rich_text import separator
from steadyvoice.media.subtitles import Cue, to_srt, to_vtt, word_cues
from steadyvoice.serving.http_errors import error_of
from steadyvoice.serving.identity import caller_of
from steadyvoice.serving.streaming import HoldingResponse, read_and_drop, server_sent, unless_gone
from steadyvoice.serving.transcription import (
    Event,
    Progress,
    TranscribeOptions,
    Transcriber,
    Transcript,
    TranscriptSegment,
    finished,
)

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
TIMED_FORMATS = ("verbose_json", "srt", "vtt")
GRANULARITIES = ("word", "segment")
MAX_FIELDS = 32
MAX_FIELD_BYTES = 64_000


@dataclass(frozen=True)
class TranscriptionForm:
    """The form, checked."""

    file: BinaryIO
    options: TranscribeOptions
    format: str
    stream: bool
    granularities: frozenset[str]


def add_transcription_routes(app: FastAPI, transcriber: Transcriber) -> None:
    service = transcriber.service

    @app.post("/v1/audio/transcriptions", openapi_extra={"requestBody": {"content": {"multipart/form-data": {}}}})
    async def transcriptions(request: Request) -> Response:
        """Speech to text. Fields: file, language, response_format, stream, timestamp_granularities[], use_itn, merge_length_s,
        service_class (interactive, batch); model, prompt and temperature are accepted and have no effect."""
        try:
            service.door.check(caller_of(request))  # before a large upload is read for nothing
        except (Overloaded, EngineUnavailable):
            await read_and_drop(request)
            raise
        async with AsyncExitStack() as hold:
            fields = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
            hold.push_async_callback(fields.close)
            form = parse_form(fields, transcriber)
            hold.enter_context(service.door.enter(caller_of(request)))
            events = transcriber.transcribe(form.file, form.options, caller_of(request))
            if not form.stream:
                return render(await unless_gone(request, finished(events)), form)
            await hold.enter_async_context(aclosing(events))
            # Decoding and admission still answer with a status; only then does the stream begin.
            first = await unless_gone(request, _until_recognizing(events))
            body = _server_sent(first, events)
            return HoldingResponse(
                body,
                hold.pop_all(),
                service.settings.request_timeout_s,
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )


def parse_form(fields: FormData, transcriber: Transcriber) -> TranscriptionForm:
    """Raises InvalidInput, naming field, value and choices."""
    file = fields.get("file")
    if not isinstance(file, UploadFile):
        raise InvalidInput("the form has no file in the field 'file'", param="file")
    limit = transcriber.service.settings.max_upload_bytes
    if file.size is not None and file.size > limit:
        raise TooLarge(f"the file has {file.size} bytes; the limit is {limit}", param="file")
    response_format = _choice(fields, "response_format", "json", FORMATS)
    granularities = frozenset(
        str(value) for name in ("timestamp_granularities[]", "timestamp_granularities") for value in fields.getlist(name)
    )
    for value in granularities - set(GRANULARITIES):
        raise InvalidInput(
            f"timestamp_granularities {value!r} is unknown; known: {', '.join(GRANULARITIES)}", param="timestamp_granularities"
        )
    if granularities and response_format not in TIMED_FORMATS:
        known = ", ".join(TIMED_FORMATS)
        raise InvalidInput(
            f"timestamp_granularities needs response_format {known}, not {response_format}", param="timestamp_granularities"
        )
    stream = _flag(fields, "stream", False)
    if stream and response_format in ("srt", "vtt"):
        raise InvalidInput(f"stream gives events, not {response_format}; ask for one of the two", param="stream")
    merge = _text(fields, "merge_length_s", "")
    try:
        merge_length_s = float(merge) if merge else None
    except ValueError:
        raise InvalidInput(f"merge_length_s {merge[:32]!r} is not a number", param="merge_length_s") from None
    options = TranscribeOptions(
        language=_text(fields, "language", "auto"),
        use_itn=_flag(fields, "use_itn", True),
        merge_length_s=merge_length_s,
        service_class=ServiceClass(_choice(fields, "service_class", "interactive", tuple(c.value for c in ServiceClass))),
    )
    return TranscriptionForm(
        file=file.file,
        options=transcriber.check(options),
        format=response_format,
        stream=stream,
        granularities=granularities,
    )


def render(transcript: Transcript, form: TranscriptionForm) -> Response:
    """A transcript in the format that was asked for."""
    headers = {
        "X-Audio-Seconds": f"{transcript.duration:.3f}",
        "X-Tokens": str(transcript.tokens),
        "X-Queue-Seconds": f"{transcript.queue_s:.4f}",
        "X-Inference-Seconds": f"{transcript.inference_s:.4f}",
        "X-Engine": f"{transcript.engine}/{transcript.revision}",
    }
    match form.format:
        case "text":
            return PlainTextResponse(transcript.text + "\n", headers=headers)
        case "srt":
            text = to_srt(cues) if (cues := _cue_per_word(transcript, form)) else transcript.srt
            return Response(text, media_type="application/x-subrip; charset=utf-8", headers=headers)
        case "vtt":
            text = to_vtt(cues) if (cues := _cue_per_word(transcript, form)) else transcript.vtt
            return Response(text, media_type="text/vtt; charset=utf-8", headers=headers)
        case "verbose_json":
            return JSONResponse(verbose(transcript, form.granularities), headers=headers)
        case _:
            return JSONResponse({"text": transcript.text, "usage": _usage(transcript)}, headers=headers)


def _cue_per_word(transcript: Transcript, form: TranscriptionForm) -> list[Cue]:
    """Subtitles word by word, where only words were asked for and the engine times them."""
    if form.granularities != {"word"}:
        return []
    return word_cues(word for segment in transcript.segments for word in segment.words)


def verbose(transcript: Transcript, granularities: frozenset[str] = frozenset()) -> dict[str, Any]:
    """OpenAI's verbose_json with our fields beside theirs. Figures that the engine does not give are left out, not made up."""
    body: dict[str, Any] = {
        "task": "transcribe",
        "language": transcript.language,
        "duration": transcript.duration,
        "text": transcript.text,
        "no_speech": transcript.no_speech,
        "rich_text": transcript.rich_text,
        "emotion": transcript.emotion,
        "events": list(transcript.events),
        "usage": _usage(transcript),
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
    fields = {name: value for name, value in vars(segment).items() if name != "words"}
    return fields | {"events": list(segment.events), "seek": int(segment.start * 100)}


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {
        "type": "duration",
        "seconds": math.ceil(transcript.duration),
        "audio_seconds": transcript.duration,
        "tokens": transcript.tokens,
    }


# --- streaming


async def _until_recognizing(events: AsyncIterator[Event]) -> list[Event]:
    seen: list[Event] = []
    async for event in events:
        seen.append(event)
        if not isinstance(event, Progress) or event.stage not in ("decoding", "segmenting"):
            break
    return seen


async def _server_sent(first: list[Event], rest: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    """transcript.text.delta per segment, then transcript.text.done, as server-sent events."""
    so_far = ""
    try:
        async for event in _chain(first, rest):
            if isinstance(event, TranscriptSegment) and event.text:
                delta = separator(so_far, event.language) + event.text
                so_far += delta
                yield _sse("transcript.text.delta", delta=delta, segment=segment_fields(event))
            elif isinstance(event, Transcript):
                yield _sse("transcript.text.done", text=event.text, usage=_usage(event))
    except SteadyvoiceError as error:
        # The status has left already; OpenAI's SDK raises on an event with an error in it.
        yield b"event: error\n" + server_sent(error_of(error))


async def _chain(first: list[Event], rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    for event in first:
        yield event
    async for event in rest:
        yield event


def _sse(kind: str, **body: Any) -> bytes:
    return server_sent({"type": kind, **body})


# --- form fields


def _text(fields: FormData, name: str, default: str) -> str:
    value = fields.get(name)
    return value.strip() or default if isinstance(value, str) else default


def _choice(fields: FormData, name: str, default: str, choices: tuple[str, ...]) -> str:
    value = _text(fields, name, default)
    if value not in choices:
        raise InvalidInput(f"{name} {value[:64]!r} is unknown; known: {', '.join(choices)}", param=name)
    return value


def _flag(fields: FormData, name: str, default: bool) -> bool:
    flags: dict[str, bool] = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    value = _text(fields, name, str(default)).lower()
    if value not in flags:
        raise InvalidInput(f"{name} {value[:32]!r} is neither true nor false", param=name)
    return flags[value]
