"""Routes of the voices: list, add, play and remove; OpenAI's routes for the same. The work is in `service.voices`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from functools import partial
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import FormData, UploadFile

from steadyvoice.api.forms import checked, fields_of
from steadyvoice.api.openapi import WITH_UPLOAD, content, errors, multipart
from steadyvoice.api.streaming import cancel_on_disconnect
from steadyvoice.api.uploads import admitted_form
from steadyvoice.engine_specs import EMOTIONS, OPENAI_VOICES, EngineSpec
from steadyvoice.errors import Conflict, InvalidInput, NotFound
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.service.service import Service
from steadyvoice.service.voices.files import MAX_FILE_BYTES
from steadyvoice.service.voices.store import Voice, VoiceStore

MAX_FIELDS = 8
MAX_FIELD_BYTES = 4_000
VOICES: list[str | Enum] = ["voices"]
RECORDING = f"A recording of 1 to 15 s of clean speech, at most {MAX_FILE_BYTES // 1_000_000} MB."


class VoiceFields(BaseModel):
    """The text of the form that makes a voice."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="What the voice is called from then on.", examples=["ann"])


class OpenAIVoiceFields(VoiceFields):
    """The text of the form as OpenAI's SDK sends it."""

    type: Literal["audio_sample"] = Field("audio_sample", description="A voice is made from a recording only.")
    consent: str | None = Field(None, description="Accepted and of no effect: record only people who agree.")


class VoiceEntry(BaseModel):
    """One voice."""

    id: str
    object: Literal["voice"]
    speaker_id: int = Field(description="Its number, which no other voice ever gets.")
    aliases: list[str] = Field(description="OpenAI's names that stand for it.")
    languages: list[str]
    engine: str
    seconds: float | None = Field(None, description="Length of its recording, where it has one.")
    origin: str | None = Field(None, description="Where its recording comes from.")


class VoiceList(BaseModel):
    """The voices, and everything else that a request may choose."""

    object: Literal["list"]
    data: list[VoiceEntry]
    languages: list[str]
    emotions: list[str]
    formats: list[str]
    speed: list[float]
    clones: bool = Field(description="Recordings become voices.")
    note: str


class NamedVoice(BaseModel):
    id: str
    name: str


class NamedVoices(BaseModel):
    """As Kokoro-FastAPI's clients and Open WebUI read it."""

    voices: list[NamedVoice] | list[str]


class CreatedVoice(BaseModel):
    id: str
    object: Literal["audio.voice"]
    created_at: int
    name: str
    type: Literal["audio_sample"]


class Deleted(BaseModel):
    id: str
    object: str
    deleted: Literal[True]


def add_voice_routes(app: FastAPI, service: Service, voices: VoiceStore | None) -> None:
    """`voices` is None for an engine that has voices of its own and takes no others."""
    _add_reading(app, service, voices)
    _add_adding(app, service, voices)
    _add_removing(app, service, voices)


def _add_reading(app: FastAPI, service: Service, voices: VoiceStore | None) -> None:
    @app.get(
        "/v1/voices",
        operation_id="list_voices",
        tags=VOICES,
        response_model=VoiceList,
        responses=errors(),
        response_model_exclude_unset=True,
    )
    async def list_voices() -> dict[str, Any]:
        """The voices, and everything else that may be chosen."""
        return await _listed(service, voices)

    @app.get("/v1/audio/voices", operation_id="list_voice_names", tags=VOICES, responses=errors(400))
    async def list_names(legacy: bool = False) -> NamedVoices:
        """The same voices as names alone; with `legacy` as plain strings."""
        names = [entry["id"] for entry in (await _listed(service, voices))["data"]]
        return NamedVoices(voices=names if legacy else [NamedVoice(id=name, name=name) for name in names])

    @app.get(
        "/v1/voices/{name}/audio",
        operation_id="voice_recording",
        tags=VOICES,
        response_class=Response,
        responses={**errors(404, 422, 429, 503), 200: content("audio/wav", description="Mono WAV.")},
    )
    async def audio(request: Request, name: str) -> Response:
        """The recording as the engine gets it: mono WAV, trimmed."""
        if voices is None:
            raise NotFound(f"the {service.spec.name} voices are built in and have no recording", param="name")
        with service.admission.admitted(request):
            data = await service.threads.run(partial(_recording, voices, name))
        return Response(data, media_type=AUDIO_FORMATS["wav"].media_type, headers={"Cache-Control": "no-cache"})


def _add_adding(app: FastAPI, service: Service, voices: VoiceStore | None) -> None:
    async def added(request: Request, field: str, model: type[VoiceFields]) -> Voice:
        store = _changeable(voices, service.spec)

        def parse(form: FormData) -> tuple[VoiceFields, UploadFile]:
            fields, file = checked(model, fields_of(form, files=(field,))), form.get(field)
            if not isinstance(file, UploadFile):
                raise InvalidInput(f"the form has no file in the field {field!r}", param=field)
            return fields, file

        receiving = admitted_form(request, service, parse, max_fields=MAX_FIELDS, max_field_bytes=MAX_FIELD_BYTES)
        async with receiving as (fields, file):
            return await cancel_on_disconnect(request, service.threads.run_sliced(store.add_steps(fields.name, file.file)))

    @app.post(
        "/v1/voices",
        status_code=201,
        operation_id="add_voice",
        tags=VOICES,
        response_model=VoiceEntry,
        responses=errors(*WITH_UPLOAD, 409, 422),
        openapi_extra=multipart(VoiceFields, {"file": RECORDING}),
        response_model_exclude_unset=True,
    )
    async def add(request: Request) -> dict[str, Any]:
        """A new voice."""
        voice = await added(request, "file", VoiceFields)
        for entry in (await _listed(service, voices))["data"]:
            if entry["id"] == voice.name:
                return dict(entry)
        raise NotFound(f"voice {voice.name!r} was removed a moment ago", param="name")

    @app.post(
        "/v1/audio/voices",
        operation_id="create_voice",
        tags=VOICES,
        responses=errors(*WITH_UPLOAD, 400, 409),
        openapi_extra=multipart(OpenAIVoiceFields, {"audio_sample": RECORDING}),
    )
    async def create(request: Request) -> CreatedVoice:
        """A new voice as OpenAI's SDK creates one."""
        voice = await added(request, "audio_sample", OpenAIVoiceFields)
        return CreatedVoice(
            id=voice.name, object="audio.voice", created_at=int(voice.created), name=voice.name, type="audio_sample"
        )


def _add_removing(app: FastAPI, service: Service, voices: VoiceStore | None) -> None:
    async def removed(name: str) -> str:
        store = _changeable(voices, service.spec)
        await service.threads.run(partial(store.remove, name))
        return name

    @app.delete("/v1/voices/{name}", operation_id="remove_voice", tags=VOICES, responses=errors(404, 409, 422))
    async def remove(name: str) -> Deleted:
        """Speech in progress in this voice is finished."""
        return Deleted(id=await removed(name), object="voice", deleted=True)

    @app.delete("/v1/audio/voices/{voice_id}", operation_id="delete_voice", tags=VOICES, responses=errors(400, 404, 409))
    async def delete(voice_id: str) -> Deleted:
        """As OpenAI's SDK does it."""
        return Deleted(id=await removed(voice_id), object="audio.voice.deleted", deleted=True)


async def _listed(service: Service, voices: VoiceStore | None) -> dict[str, Any]:
    return voice_list(service.spec, None if voices is None else await service.threads.run(voices.voices))


def voice_list(spec: EngineSpec, recorded: Sequence[Voice] | None) -> dict[str, Any]:
    """Every voice with its number, and what else a request may choose. `recorded` is None for an engine that clones none."""
    languages = [language for language in spec.languages if language != "auto"]
    if recorded is None:
        data = [
            {
                "id": name,
                "object": "voice",
                "speaker_id": index,
                "aliases": [alias for i, alias in enumerate(OPENAI_VOICES) if i % len(spec.speakers) == index],
                "languages": languages,
                "engine": spec.name,
            }
            for index, name in enumerate(spec.speakers)
        ]
    else:
        data = [
            {
                "id": voice.name,
                "object": "voice",
                "speaker_id": voice.number,
                "aliases": list(voice.aliases),
                "languages": languages,
                "engine": spec.name,
                "seconds": round(voice.seconds, 3),
                "origin": voice.origin,
            }
            for voice in recorded
        ]
    return {
        "object": "list",
        "data": data,
        "languages": list(spec.languages),
        "emotions": list(EMOTIONS),
        "formats": list(AUDIO_FORMATS),
        "speed": [MIN_SPEED, MAX_SPEED],
        "clones": spec.clones,
        "note": spec.note_en,
    }


def _changeable(voices: VoiceStore | None, spec: EngineSpec) -> VoiceStore:
    if voices is None:
        raise Conflict(f"the {spec.name} voices are built in: none can be added or removed", param="name")
    return voices


def _recording(voices: VoiceStore, name: str) -> bytes:
    with voices.borrow(voices.get(name)) as path:
        return path.read_bytes()
