"""POST /synthesize and /v1/audio/speech, and GET what belongs to them: subtitles and usage. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.media.subtitles import to_srt, to_vtt
from steadyvoice.serving.http import caller_of
from steadyvoice.serving.speech_answers import Delivery, SpeechAnswers
from steadyvoice.serving.subtitle_shelf import SubtitleShelf
from steadyvoice.serving.synthesis import SpeakOptions, Synthesizer

Strict = ConfigDict(extra="forbid")
Seed = Annotated[int, Field(ge=0, lt=2**63)]
LONG_S = 60.0  # of audio; a proxy in between gives up on a connection that is silent for about so long
SUBTITLE_FORMATS = {"srt": (to_srt, "application/x-subrip; charset=utf-8"), "vtt": (to_vtt, "text/vtt; charset=utf-8")}


class SynthesizeBody(BaseModel):
    """The body of /synthesize. An unknown field is refused: a typing error must not silently change the voice."""

    model_config = Strict

    text: str
    language: str = "auto"
    emotion: str = "neutral"
    emotion_strength: float = 0.6
    speaker_id: int | str = 0
    speed: float = 1.0
    format: str = "wav"
    stream: bool | None = None  # None: where the audio will be long
    seed: Seed | None = None
    service_class: ServiceClass = ServiceClass.INTERACTIVE

    def options(self) -> SpeakOptions:
        return SpeakOptions(**self.model_dump(exclude={"stream"}))


class SpeechBody(BaseModel):
    """The body of /v1/audio/speech as OpenAI's SDK sends it; emotion and language are ours. `model` and `instructions`
    are accepted and have no effect."""

    model_config = Strict

    input: str
    model: str = ""
    voice: int | str | dict[str, Any] = 0
    instructions: str | None = None
    response_format: str = "mp3"
    speed: float = 1.0
    stream_format: Literal["audio", "sse"] = "audio"
    language: str = "auto"
    emotion: str = "neutral"
    emotion_strength: float = 0.6
    seed: Seed | None = None
    service_class: ServiceClass = ServiceClass.INTERACTIVE

    def options(self) -> SpeakOptions:
        voice = self.voice.get("id", "") if isinstance(self.voice, dict) else self.voice
        return SpeakOptions(
            text=self.input,
            language=self.language,
            emotion=self.emotion,
            emotion_strength=self.emotion_strength,
            speaker_id=voice,
            speed=self.speed,
            format=self.response_format,
            seed=self.seed,
            service_class=self.service_class,
        )


def add_synthesis_routes(app: FastAPI, synthesizer: Synthesizer) -> None:
    subtitles = SubtitleShelf()
    answers = SpeechAnswers(synthesizer, subtitles)

    @app.post("/synthesize")
    async def synthesize(request: Request, body: SynthesizeBody) -> Response:
        """Text to speech: a whole file, or with `stream` bytes from the first sentence on. What will be long is streamed unless
        `stream` is false."""
        speak = synthesizer.check(body.options())
        stream = speak.expected_s > LONG_S if body.stream is None else body.stream
        return await answers.answer(request, speak, Delivery.STREAMED if stream else Delivery.WHOLE)

    @app.post("/v1/audio/speech")
    async def speech(request: Request, body: SpeechBody) -> Response:
        """Text to speech as OpenAI has it: streamed, unless there is only one sentence and so nothing to wait for; with
        `stream_format` sse as server-sent events."""
        speak = synthesizer.check(body.options())
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
