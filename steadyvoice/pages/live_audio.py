"""Audio that is still being synthesized: the page's player requests /speech/<token> and plays the first sentence while the rest
is synthesized.

Plain chunked MP3, because every browser plays it as it comes and no ffmpeg binary is needed. All methods run on the event loop.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator

from cachetools import TTLCache
from fastapi import FastAPI
from fastapi.responses import Response, StreamingResponse

from steadyvoice.api.errors import error_response
from steadyvoice.media.encode import AUDIO_FORMATS, StreamEncoder
from steadyvoice.protocol import Speech
from steadyvoice.service.service import Service

KEPT = 64  # streams at most
KEPT_S = 600.0  # seconds; a player may start over within this time
MP3 = AUDIO_FORMATS["mp3"]


class LiveAudio:
    """One stream: written by the page's handler, read by any number of players."""

    def __init__(self, service: Service) -> None:
        self.token = secrets.token_urlsafe(16)
        self._service = service
        self._encoder: StreamEncoder | None = None
        self._chunks: list[bytes] = []
        self._finished = False
        self._news = asyncio.Condition()

    async def add(self, speech: Speech) -> None:
        """Append one spoken sentence."""
        if self._encoder is None:
            self._encoder = StreamEncoder(speech.sample_rate, MP3)
        encoder = self._encoder
        await self._append(await self._service.threads.run(lambda: encoder.feed(speech.samples)))

    async def finish(self) -> None:
        """The stream is complete; players end when they have read all of it. May be called twice."""
        if not self._finished:
            self._finished = True
            await self._append(self._encoder.finish() if self._encoder else b"")

    async def listen(self) -> AsyncIterator[bytes]:
        """From the beginning to the end, waiting for what is not there yet."""
        read = 0
        while True:
            async with self._news:
                while read == len(self._chunks) and not self._finished:
                    await self._news.wait()
            if read == len(self._chunks):
                return
            yield self._chunks[read]
            read += 1

    async def _append(self, chunk: bytes) -> None:
        async with self._news:
            if chunk:
                self._chunks.append(chunk)
            self._news.notify_all()


class LiveAudioStore:
    """The streams of the last minutes, by token. A token is a secret: it alone gives access."""

    def __init__(self, app: FastAPI, service: Service) -> None:
        self._service = service
        self._streams: TTLCache[str, LiveAudio] = TTLCache(KEPT, KEPT_S)

        @app.get("/speech/{token}", include_in_schema=False)
        async def speech(token: str) -> Response:
            stream = self._streams.get(token)
            if stream is None:
                return error_response(404, "this audio is no longer here", "not_found", "invalid_request_error")
            return StreamingResponse(stream.listen(), media_type=MP3.media_type, headers={"Cache-Control": "no-store"})

    def new(self) -> LiveAudio:
        stream = LiveAudio(self._service)
        self._streams[stream.token] = stream
        return stream
