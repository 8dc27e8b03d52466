"""POST /v1/audio/transcriptions and /v1/audio/translations as OpenAI's SDK calls them. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from steadyvoice.admission.identity import caller_of
from steadyvoice.api.openapi import AT_WORK, WITH_UPLOAD, errors, event_stream, headers, multipart, text
from steadyvoice.api.streaming import SpooledResponse, cancel_on_disconnect
from steadyvoice.api.transcription_form import (
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    TOGETHER,
    TranscriptionFields,
    parse_form,
    refined,
)
from steadyvoice.api.transcription_responses import (
    StreamError,
    TextDelta,
    TextDone,
    Transcription,
    VerboseTranscription,
    events_of,
    render,
)
from steadyvoice.api.uploads import admitted_form
from steadyvoice.errors import InvalidInput
from steadyvoice.service.transcription.result import Event, Progress
from steadyvoice.service.transcription.transcriber import Transcriber, finished

TRANSCRIBED: dict[int | str, dict[str, Any]] = {
    **errors(*WITH_UPLOAD, *AT_WORK, 400, 404, 422),
    200: {
        "model": Transcription | VerboseTranscription,
        "description": "The transcript, in the format that was asked for; with `stream` as events.",
        "content": {
            "text/plain": text("`text`, `srt` and `vtt`."),
            "text/event-stream": event_stream(TextDelta, TextDone, StreamError),
        },
        "headers": headers(
            X_Audio_Seconds="Length of the audio. None of these headers comes with `stream`.",
            X_Tokens="50 per second of audio.",
            X_Queue_Seconds="Time in the queue.",
            X_Inference_Seconds="Time of the engine.",
            X_Engine="Name and revision.",
        ),
    },
}


def add_transcription_routes(app: FastAPI, transcriber: Transcriber) -> None:
    service = transcriber.service
    file = f"Audio or video with sound, at most {service.settings.max_upload_mb:g} MB."

    @app.post(
        "/v1/audio/transcriptions",
        operation_id="create_transcription",
        tags=["transcription"],
        responses=TRANSCRIBED,
        openapi_extra=multipart(TranscriptionFields, {"file": file}, refined(service.spec, service.settings), TOGETHER),
    )
    async def transcriptions(request: Request) -> Response:
        """Speech to text."""
        parse = partial(parse_form, transcriber=transcriber)
        receiving = admitted_form(request, service, parse, max_fields=MAX_FIELDS, max_field_bytes=MAX_FIELD_BYTES)
        async with AsyncExitStack() as hold:
            form = await hold.enter_async_context(receiving)
            events = transcriber.transcribe(form.file, form.options, caller_of(request))
            if not form.stream:
                return render(await cancel_on_disconnect(request, finished(events)), form)
            await hold.enter_async_context(aclosing(events))
            # Decoding and admission still answer with a status; only then does the stream begin.
            first = await cancel_on_disconnect(request, _until_recognizing(events))
            return SpooledResponse(
                events_of(_chain(first, events), form),
                hold.pop_all(),
                service.settings.request_timeout_s,
                media_type="text/event-stream",
                headers={"Cache-Control": "no-store"},
            )

    # Not described: no engine here translates.
    @app.post("/v1/audio/translations", include_in_schema=False)
    async def translations(request: Request) -> Response:
        """Refused, by name, rather than unknown."""
        raise InvalidInput(
            f"engine {service.spec.name} cannot translate; /v1/audio/transcriptions gives the text in the language of the speech"
        )


async def _until_recognizing(events: AsyncIterator[Event]) -> list[Event]:
    seen: list[Event] = []
    async for event in events:
        seen.append(event)
        if not isinstance(event, Progress) or event.stage not in ("decoding", "segmenting"):
            break
    return seen


async def _chain(first: list[Event], rest: AsyncIterator[Event]) -> AsyncIterator[Event]:
    for event in first:
        yield event
    async for event in rest:
        yield event
