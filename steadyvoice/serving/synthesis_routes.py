"""POST /synthesize and /v1/audio/speech, and GET what belongs to them: subtitles and usage. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.errors import InvalidInput
from steadyvoice.media.subtitles import to_srt, to_vtt
from steadyvoice.serving.identity import caller_of
from steadyvoice.serving.speech_answers import Delivery, SpeechAnswers
from steadyvoice.serving.speech_request import SpeakOptions
from steadyvoice.serving.subtitle_shelf import SubtitleShelf
from steadyvoice.serving.synthesis import Synthesizer

Seed = Annotated[int, Field(ge=0, lt=2**63)]
OPENAI_NAMES = {"text": "input", "speaker_id": "voice", "format": "response_format"}  # of our fields
LONG_S = 60.0  # of audio; a proxy in between gives up on a connection that is silent for about so long
SUBTITLE_FORMATS = {"srt": (to_srt, "application/x-subrip; charset=utf-8"), "vtt": (to_vtt, "text/vtt; charset=utf-8")}


class Wishes(BaseModel):
    """What both routes take. An unknown field is refused: a typing error must not silently change the voice."""

    model_config = ConfigDict(extra="forbid")

    language: str = "auto"
    emotion: str = "neutral"
    emotion_strength: float = 0.6
    emotion_vector: list[float] | None = None
    emotion_voice: int | str | None = None
    emotion_text: str | None = None
    speed: float = 1.0
    seed: Seed | None = None
    service_class: ServiceClass = ServiceClass.INTERACTIVE

    def wishes(self) -> dict[str, Any]:
        """As `SpeakOptions` calls them."""
        return {name: getattr(self, name) for name in Wishes.model_fields}


class SynthesizeBody(Wishes):
    """The body of /synthesize."""

    text: str
    speaker_id: int | str = 0
    format: str = "wav"
    stream: bool | None = None  # None: where the audio will be long

    def options(self) -> SpeakOptions:
        return SpeakOptions(self.text, speaker_id=self.speaker_id, format=self.format, **self.wishes())


class SpeechBody(Wishes):
    """The body of /v1/audio/speech as OpenAI's SDK sends it. `model` and `instructions` are accepted and have no effect."""

    input: str
    model: str = ""
    voice: int | str | dict[str, Any] = 0
    instructions: str | None = None
    response_format: str = "mp3"
    stream_format: Literal["audio", "sse"] = "audio"

    def options(self) -> SpeakOptions:
        voice = self.voice.get("id", "") if isinstance(self.voice, dict) else self.voice
        return SpeakOptions(self.input, speaker_id=voice, format=self.response_format, **self.wishes())


def add_synthesis_routes(app: FastAPI, synthesizer: Synthesizer) -> None:
    subtitles = SubtitleShelf()
    answers = SpeechAnswers(synthesizer, subtitles)

    @app.post("/synthesize")
    async def synthesize(request: Request, body: SynthesizeBody) -> Response:
        """Text to speech: a whole file, or with `stream` bytes from the first sentence on. What will be long is streamed unless
        `stream` is false."""
        speak = await synthesizer.check(body.options())
        stream = speak.expected_s > LONG_S if body.stream is None else body.stream
        return await answers.answer(request, speak, Delivery.STREAMED if stream else Delivery.WHOLE)

    @app.post("/v1/audio/speech")
    async def speech(request: Request, body: SpeechBody) -> Response:
        """Text to speech as OpenAI has it: streamed, unless there is only one sentence and so nothing to wait for; with
        `stream_format` sse as server-sent events."""
        try:
            speak = await synthesizer.check(body.options())
        except InvalidInput as error:
            error.param = OPENAI_NAMES.get(error.param or "", error.param)
            raise
        if body.stream_format == "sse":
            return await answers.answer(request, speak, Delivery.EVENTS)
        return await answers.answer(request, speak, Delivery.STREAMED if len(speak.pieces) > 1 else Delivery.WHOLE)

    @app.get("/v1/speech/{speech_id}/subtitles")
    async def subtitles_of(speech_id: str, format: Literal["srt", "vtt"] = "srt") -> Response:
        """One cue per sentence, while they are kept; the id is in `X-Speech-Id`."""
        render, media_type = SUBTITLE_FORMATS[format]
        return Response(render(subtitles.cues(speech_id)), media_type=media_type, headers={"Cache-Control": "no-store"})

    @app.get("/v1/usage")
    async def usage(request: Request) -> dict[str, Any]:
        """What the caller has had since the start. Nobody else's figures."""
        return {"object": "usage", **asdict(synthesizer.meter.usage(caller_of(request)))}
