"""POST /synthesize and POST /v1/audio/speech. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from steadyvoice.engine.scheduler import ServiceClass
from steadyvoice.serving.http import HoldingResponse, caller_of, unless_gone
from steadyvoice.serving.synthesis import SpeakOptions, SpeakRequest, Synthesizer

Strict = ConfigDict(extra="forbid")


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
    stream: bool = False
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
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
    stream_format: Literal["audio"] = "audio"
    language: str = "auto"
    emotion: str = "neutral"
    emotion_strength: float = 0.6
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
            service_class=self.service_class,
        )


def add_synthesis_routes(app: FastAPI, synthesizer: Synthesizer) -> None:
    service = synthesizer.service

    @app.post("/synthesize")
    async def synthesize(request: Request, body: SynthesizeBody) -> Response:
        """Text to speech: a whole file, or with `stream` bytes from the first sentence on."""
        return await answer(request, synthesizer.check(body.options()), body.stream)

    @app.post("/v1/audio/speech")
    async def speech(request: Request, body: SpeechBody) -> Response:
        """Text to speech as OpenAI has it: streamed, unless there is only one sentence and so nothing to wait for."""
        speak = synthesizer.check(body.options())
        return await answer(request, speak, stream=len(speak.pieces) > 1)

    async def answer(request: Request, speak: SpeakRequest, stream: bool) -> Response:
        caller = caller_of(request)
        async with AsyncExitStack() as hold:
            hold.enter_context(service.door.enter(caller))
            if not stream:
                spoken = await unless_gone(request, synthesizer.speak(speak, caller))
                headers = {
                    "X-Audio-Seconds": f"{spoken.duration_s:.3f}",
                    "X-Tokens": str(spoken.tokens),
                    "X-Queue-Seconds": f"{spoken.queue_s:.4f}",
                    "X-Inference-Seconds": f"{spoken.inference_s:.4f}",
                    "X-Engine": f"{service.card.name}/{service.revision}",
                }
                return Response(spoken.audio, media_type=spoken.format.media_type, headers=headers)
            audio = await hold.enter_async_context(aclosing(synthesizer.stream(speak, caller)))
            # The first sentence decides between an error status and a stream.
            first = await unless_gone(request, anext(audio))
            # How long it will be is not known yet: these headers cannot say what a whole file's say.
            headers = {"X-Engine": f"{service.card.name}/{service.revision}", "Cache-Control": "no-store"}
            return HoldingResponse(
                _from(first, audio),
                hold.pop_all(),
                service.settings.request_timeout_s,
                media_type=speak.format.media_type,
                headers=headers,
            )


async def _from(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for data in rest:
        yield data
