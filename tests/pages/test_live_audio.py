from __future__ import annotations

import asyncio

import numpy as np
from fastapi import FastAPI

from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.pages.live_audio import LiveAudio, LiveAudioStore
from steadyvoice.protocol import Speech
from steadyvoice.provision.service_factory import create_service
from steadyvoice.settings import Settings
from tests.audio import read

TONE = Speech((np.sin(np.arange(22_050) * 0.1) * 10_000).astype(np.int16), 22_050)


def test_a_player_hears_the_beginning_before_the_end_is_made_and_a_late_one_hears_it_all() -> None:
    async def story(stream: LiveAudio) -> tuple[bytes, bytes]:
        await stream.add(TONE)
        early = stream.listen()
        first = await anext(early)  # nothing else has been made yet
        await stream.add(TONE)
        await stream.finish()
        await stream.finish()
        heard = first + b"".join([chunk async for chunk in early])
        return heard, b"".join([chunk async for chunk in stream.listen()])

    service = create_service(Settings(), "tts", WorkerSpec("never:Started"))
    try:
        early, late = asyncio.run(story(LiveAudio(service)))
    finally:
        service.close()
    assert early == late
    samples, rate = read(early)
    assert abs(len(samples) / rate - 2.0) < 0.15


def test_a_player_that_waits_is_released_when_nothing_comes() -> None:
    async def story(stream: LiveAudio) -> list[bytes]:
        listening = asyncio.ensure_future(_all(stream))
        await asyncio.sleep(0)  # let it begin to wait
        await stream.finish()
        return await asyncio.wait_for(listening, 30)

    service = create_service(Settings(), "tts", WorkerSpec("never:Started"))
    try:
        assert asyncio.run(story(LiveAudio(service))) == []
    finally:
        service.close()


def test_tokens_are_secret_and_differ() -> None:
    service = create_service(Settings(), "tts", WorkerSpec("never:Started"))
    live_audio = LiveAudioStore(FastAPI(), service)
    tokens = {live_audio.new().token for _ in range(20)}
    service.close()
    assert len(tokens) == 20
    assert min(map(len, tokens)) >= 20


async def _all(stream: LiveAudio) -> list[bytes]:
    return [chunk async for chunk in stream.listen()]
