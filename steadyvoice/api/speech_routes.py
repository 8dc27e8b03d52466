"""POST /synthesize and /v1/audio/speech, and GET what belongs to them: subtitles and usage. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from steadyvoice.admission.identity import caller_of
from steadyvoice.api.model_routes import check_model
from steadyvoice.api.openapi import AT_WORK, WITH_BODY, content, errors, event_stream, headers, refine
from steadyvoice.api.speech_bodies import SpeechBody, SynthesizeBody, refined, together
from steadyvoice.api.speech_responses import AudioDelta, AudioDone, Delivery, SpeechResponder
from steadyvoice.api.transcription_responses import StreamError
from steadyvoice.errors import InvalidInput
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.media.subtitles import to_srt, to_vtt
from steadyvoice.service.speech.subtitle_store import SubtitleStore
from steadyvoice.service.speech.synthesis import Synthesizer

OPENAI_NAMES = {"text": "input", "speaker_id": "voice", "format": "response_format"}  # of our fields
LONG_S = 60.0  # of audio; a proxy in between gives up on a connection that is silent for about so long
SUBTITLE_FORMATS = {"srt": (to_srt, "application/x-subrip; charset=utf-8"), "vtt": (to_vtt, "text/vtt; charset=utf-8")}
SPEECH: list[str | Enum] = ["speech"]
AUDIO = [fmt.media_type for fmt in AUDIO_FORMATS.values()]
SPOKEN: dict[int | str, dict[str, Any]] = {
    **errors(*WITH_BODY, *AT_WORK, 409, 422),
    200: content(*AUDIO, description="The audio, whole or in pieces as it is spoken.")
    | {
        "headers": headers(
            X_Speech_Id="For `GET /v1/speech/{speech_id}/subtitles`.",
            X_Characters="Of the cleaned text.",
            X_Engine="Name and revision.",
            X_Audio_Seconds="Length of the audio. From here on: with whole answers only.",
            X_Tokens="50 per second of audio.",
            X_Queue_Seconds="Time in the queue.",
            X_Inference_Seconds="Time of the engine.",
            X_Speed_Method="native, or stretched afterwards.",
            X_Speech_Defects="Sentences that came out wrong, and how.",
            X_Speech_Reduced="Sentences that memory was short for.",
            X_Cached="true: the answer was kept from an earlier request.",
        ),
        "links": {
            "subtitles": {"operationId": "speech_subtitles", "parameters": {"speech_id": "$response.header.X-Speech-Id"}},
        },
    },
}
SUBTITLES = content(*(media_type for _, media_type in SUBTITLE_FORMATS.values()), description="One cue per sentence.")
# A retry's header is described in words: a parameter would promise that every key is accepted with every body.
RETRIES = """

With the header `Idempotency-Key` (1 to 255 printable ASCII characters) a retry gets the same bytes and costs nothing; with
another body it is refused with 422, and with 409 while the first request is at work."""
SYNTHESIZE = """Text to speech: a whole file, or with `stream` bytes from the first sentence on. What will be long is streamed
unless `stream` is false."""
CREATE_SPEECH = """Text to speech as OpenAI has it: streamed, unless there is only one sentence; with
`stream_format` sse as server-sent events."""


class UsageTotals(BaseModel):
    """Totals of one caller since the start."""

    object: Literal["usage"]
    requests: int = Field(ge=0)
    characters: int = Field(ge=0)
    audio_seconds: float = Field(ge=0)
    tokens: int = Field(ge=0)


def add_speech_routes(app: FastAPI, synthesizer: Synthesizer) -> None:
    subtitles = SubtitleStore()
    answers = SpeechResponder(synthesizer, subtitles)
    spec = synthesizer.service.spec
    fields = refined(spec, synthesizer.service.settings)
    refine(app, SynthesizeBody, fields, together(spec, "text"))
    refine(app, SpeechBody, fields, together(spec, "input"))

    @app.post(
        "/synthesize",
        operation_id="synthesize",
        description=SYNTHESIZE + RETRIES,
        tags=SPEECH,
        response_class=Response,
        responses=SPOKEN,
    )
    async def synthesize(request: Request, body: SynthesizeBody) -> Response:
        speak = await synthesizer.check(body.options())
        stream = speak.expected_s > LONG_S if body.stream is None else body.stream
        return await answers.answer(request, speak, Delivery.STREAMED if stream else Delivery.WHOLE)

    @app.post(
        "/v1/audio/speech",
        operation_id="create_speech",
        description=CREATE_SPEECH + RETRIES,
        tags=SPEECH,
        response_class=Response,
        responses={**SPOKEN, **errors(400, 404)},
        openapi_extra={
            "responses": {"200": {"content": {"text/event-stream": event_stream(AudioDelta, AudioDone, StreamError)}}},
        },
    )
    async def speech(request: Request, body: SpeechBody) -> Response:
        check_model(body.model, spec)
        try:
            speak = await synthesizer.check(body.options())
            if body.stream_format == "sse":
                delivery = Delivery.EVENTS
            else:
                delivery = Delivery.STREAMED if body.stream is not False and len(speak.pieces) > 1 else Delivery.WHOLE
            return await answers.answer(request, speak, delivery)
        except InvalidInput as error:
            error.param = OPENAI_NAMES.get(error.param or "", error.param)
            raise

    _add_lookups(app, synthesizer, subtitles)


def _add_lookups(app: FastAPI, synthesizer: Synthesizer, subtitles: SubtitleStore) -> None:
    """Subtitles by speech id, and usage totals."""

    @app.get(
        "/v1/speech/{speech_id}/subtitles",
        operation_id="speech_subtitles",
        tags=SPEECH,
        response_class=Response,
        responses={**errors(404, 422), 200: SUBTITLES},
    )
    async def subtitles_of(speech_id: str, format: Literal["srt", "vtt"] = "srt") -> Response:
        """One cue per sentence, while they are kept; the id is in `X-Speech-Id`."""
        render, media_type = SUBTITLE_FORMATS[format]
        return Response(render(subtitles.cues(speech_id)), media_type=media_type, headers={"Cache-Control": "no-store"})

    @app.get("/v1/usage", operation_id="usage", tags=SPEECH, responses=errors())
    async def usage(request: Request) -> UsageTotals:
        """Totals of the calling client since the start, and of no other."""
        return UsageTotals(object="usage", **asdict(synthesizer.meter.usage(caller_of(request))))
