"""The voices over HTTP: list, add, hear and remove them; OpenAI's routes for the same. Knows HTTP; the work is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.datastructures import UploadFile

from steadyvoice.catalogue import EMOTIONS, OPENAI_VOICES, EngineCard
from steadyvoice.errors import EngineUnavailable, InvalidInput, NotFound, Overloaded
from steadyvoice.media.encode import AUDIO_FORMATS
from steadyvoice.media.stretch import MAX_SPEED, MIN_SPEED
from steadyvoice.serving.identity import caller_of
from steadyvoice.serving.service import Service
from steadyvoice.serving.streaming import read_and_drop
from steadyvoice.serving.voices import Voice, VoiceStore

MAX_FIELDS = 8
MAX_FIELD_BYTES = 4_000
MULTIPART: dict[str, Any] = {"requestBody": {"content": {"multipart/form-data": {}}}}


def add_voice_routes(app: FastAPI, service: Service, voices: VoiceStore | None) -> None:
    """`voices` is None for an engine that has voices of its own and takes no others."""
    card = service.card

    @app.get("/v1/voices")
    async def list_voices() -> dict[str, Any]:
        """The voices, and everything else that may be chosen."""
        return voice_list(card, None if voices is None else await service.on_host(voices.voices))

    @app.post("/v1/voices", status_code=201, openapi_extra=MULTIPART)
    async def add(request: Request) -> dict[str, Any]:
        """A new voice. Fields: name, and file with a recording of 1 to 15 s."""
        voice = await added(request, "file")
        for entry in (await list_voices())["data"]:
            if entry["id"] == voice.name:
                return dict(entry)
        raise NotFound(f"voice {voice.name!r} was removed a moment ago", param="name")

    @app.post("/v1/audio/voices", openapi_extra=MULTIPART)
    async def create(request: Request) -> dict[str, Any]:
        """A new voice as OpenAI's SDK creates one: name and audio_sample; consent is accepted and has no effect."""
        voice = await added(request, "audio_sample")
        return {
            "id": voice.name,
            "object": "audio.voice",
            "created_at": int(voice.created),
            "name": voice.name,
            "type": "audio_sample",
        }

    @app.delete("/v1/voices/{name}")
    async def remove(name: str) -> dict[str, Any]:
        """Whoever speaks in the voice at this moment does so to the end."""
        return {"id": await removed(name), "object": "voice", "deleted": True}

    @app.delete("/v1/audio/voices/{voice_id}")
    async def delete(voice_id: str) -> dict[str, Any]:
        """As OpenAI's SDK does it."""
        return {"id": await removed(voice_id), "object": "audio.voice.deleted", "deleted": True}

    @app.get("/v1/voices/{name}/audio")
    async def audio(request: Request, name: str) -> Response:
        """What the engine hears of a voice: mono WAV, trimmed."""
        if voices is None:
            raise NotFound(f"the {card.name} voices are built in and have no recording", param="name")
        with service.door.enter(caller_of(request)):
            data = await service.on_host(partial(_recording, voices, name))
        return Response(data, media_type=AUDIO_FORMATS["wav"].media_type, headers={"Cache-Control": "no-cache"})

    async def added(request: Request, field: str) -> Voice:
        try:
            store = _changeable(voices, card)
            service.door.check(caller_of(request))  # before a large upload is read for nothing
        except (InvalidInput, Overloaded, EngineUnavailable):
            await read_and_drop(request)
            raise
        async with AsyncExitStack() as hold:
            fields = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
            hold.push_async_callback(fields.close)
            name, file, kind = fields.get("name"), fields.get(field), fields.get("type", "audio_sample")
            if kind != "audio_sample":
                raise InvalidInput("a voice is made from a recording only: type audio_sample", param="type")
            if not isinstance(name, str):
                raise InvalidInput("the form has no text in the field 'name'", param="name")
            if not isinstance(file, UploadFile):
                raise InvalidInput(f"the form has no file in the field {field!r}", param=field)
            hold.enter_context(service.door.enter(caller_of(request)))
            return await service.on_host(partial(store.add, name, file.file))

    async def removed(name: str) -> str:
        store = _changeable(voices, card)
        await service.on_host(partial(store.remove, name))
        return name


def voice_list(card: EngineCard, recorded: Sequence[Voice] | None) -> dict[str, Any]:
    """Every voice with its number, and what else a request may choose. `recorded` is None for an engine that clones none."""
    languages = [language for language in card.languages if language != "auto"]
    if recorded is None:
        data = [
            {
                "id": name,
                "object": "voice",
                "speaker_id": index,
                "aliases": [alias for i, alias in enumerate(OPENAI_VOICES) if i % len(card.speakers) == index],
                "languages": languages,
                "engine": card.name,
            }
            for index, name in enumerate(card.speakers)
        ]
    else:
        data = [
            {
                "id": voice.name,
                "object": "voice",
                "speaker_id": index,
                "aliases": [],
                "languages": languages,
                "engine": card.name,
                "seconds": round(voice.seconds, 3),
                "origin": voice.origin,
            }
            for index, voice in enumerate(recorded)
        ]
    return {
        "object": "list",
        "data": data,
        "languages": list(card.languages),
        "emotions": list(EMOTIONS),
        "formats": list(AUDIO_FORMATS),
        "speed": [MIN_SPEED, MAX_SPEED],
        "clones": card.clones,
        "note": card.note_en,
    }


def _changeable(voices: VoiceStore | None, card: EngineCard) -> VoiceStore:
    if voices is None:
        raise InvalidInput(f"the {card.name} voices are built in: none can be added or removed", param="name")
    return voices


def _recording(voices: VoiceStore, name: str) -> bytes:
    with voices.borrow(voices.get(name)) as path:
        return path.read_bytes()
