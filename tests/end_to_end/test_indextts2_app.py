"""The text-to-speech app on IndexTTS2, seen from outside. The package behind it is a stand-in that says in tones what it was
asked for, so that every answer can be told to be its own caller's."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from starlette.testclient import TestClient

from app_tts import build_app
from steadyvoice.engine.worker_policy import Policy
from steadyvoice.engine_specs import EMOTIONS
from steadyvoice.provision.service_factory import create_service
from steadyvoice.service import service as service_module
from steadyvoice.settings import Settings
from steadyvoice.testing.indextts2_standin import REFERENCES, VOICES, code_of, number_of, seconds_of
from steadyvoice.testing.indextts2_tones import Heard, hear, sentences
from steadyvoice.testing.running_apps import CLIPS, RunningApp, running
from tests.audio import read, wav_bytes
from tests.conftest import MakeCheckout

RTF = 0.01  # enough for the order of turns to show
WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "kiosk", "lemon", "maple"]
NAMES = [clip.stem for clip in CLIPS[:3]]


@pytest.fixture(scope="module")
def app(make_checkout: MakeCheckout, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningApp]:
    root, hub = make_checkout("2.0", rtf=RTF), tmp_path_factory.mktemp("hub")
    (hub / "voices").mkdir()
    for clip in CLIPS[:3]:
        shutil.copy(clip, hub / "voices")
    with running(
        "app_tts.py",
        TTS_ENGINE="indextts2",
        INDEXTTS_PYTHON=str(root / ".venv" / "bin" / "python"),
        CACHE_HUB=str(hub),
        CONCURRENCY="40",
        QUEUE_SIZE="250",
    ) as running_app:
        yield running_app


@pytest.fixture(scope="module")
def recorded(app: RunningApp) -> dict[str, bytes]:
    """What the engine hears of each voice."""
    with app.client as client:
        return {name: client.get(f"/v1/voices/{name}/audio").content for name in NAMES}


def speak(app: RunningApp, **body: object) -> httpx.Response:
    with app.client as client:
        return client.post("/synthesize", json=body)


def heard(data: bytes) -> list[Heard]:
    samples, rate = read(data)
    return [hear(part, rate) for part in sentences(samples, rate)]


def said_by(recording: bytes) -> int:
    return number_of(recording, VOICES)


def felt(sentence: Heard) -> str:
    """The strongest emotion; stretching takes some of a tone away, so how strong it is, is not told."""
    strongest = max(sentence.emotion)
    return EMOTIONS[1:][sentence.emotion.index(strongest)] if strongest > 0.1 else "neutral"


def part_of(emotion: str, strength: float) -> list[float]:
    return [0.8 * strength * (name == emotion) for name in EMOTIONS[1:]]


def test_every_voice_of_the_folder_speaks_and_sounds_like_its_recording(app: RunningApp, recorded: dict[str, bytes]) -> None:
    listed = app.client.get("/v1/voices").json()

    assert listed["clones"]
    assert {voice["id"] for voice in listed["data"]} >= set(NAMES)
    assert len({said_by(recording) for recording in recorded.values()}) == 3
    for name, recording in recorded.items():
        (sentence,) = heard(speak(app, text="the river is wide", speaker_id=name).content)
        assert sentence.voice == said_by(recording)
        assert sentence.code == code_of("the river is wide")


def test_the_openai_sdk_adds_a_voice_speaks_in_it_and_removes_it(app: RunningApp) -> None:
    client = openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)
    tone = (np.sin(np.arange(5 * 16_000) * 0.07) * 0.3).astype(np.float32)

    voice = client.audio.voices.create(name="mine", audio_sample=("mine.wav", wav_bytes(tone)), consent="given")
    own = app.client.get("/v1/voices/mine/audio").content
    spoken = client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="hello from me", response_format="flac")
    client.audio.voices.delete(voice.id)

    assert [sentence.voice for sentence in heard(spoken.content)] == [said_by(own)]
    with pytest.raises(openai.BadRequestError, match="unknown"):
        client.audio.speech.create(model="tts-1", voice={"id": voice.id}, input="hello from me")


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "aac", "flac"])
def test_voice_emotion_and_text_are_heard_in_every_format(app: RunningApp, recorded: dict[str, bytes], name: str) -> None:
    body = {"text": "maple and olive and pearl", "emotion": "sad", "emotion_strength": 1.0, "speaker_id": NAMES[1]}

    answer = speak(app, format=name, **body)

    (sentence,) = heard(answer.content)
    assert sentence.voice == said_by(recorded[NAMES[1]])
    assert sentence.code == code_of(str(body["text"]))
    assert sentence.emotion == pytest.approx(part_of("sad", 1.0), abs=0.06)


def test_an_emotion_is_told_in_one_of_four_ways(app: RunningApp, recorded: dict[str, bytes]) -> None:
    vector = [0.1, 0, 0.3, 0, 0, 0, 0, 0.2]

    by_vector = heard(speak(app, text="a b c d e f", emotion_vector=vector, emotion_strength=1.0).content)[0]
    by_voice = heard(speak(app, text="a b c d e f", emotion_voice=NAMES[2]).content)[0]
    by_text = heard(speak(app, text="a b c d e f", emotion_text="gloomy", emotion_strength=1.0).content)[0]
    two = speak(app, text="a b c", emotion="sad", emotion_vector=vector)
    seven = speak(app, text="a b c", emotion_vector=vector[1:])
    nobody = speak(app, text="a b c", emotion_voice="nobody")

    assert by_vector.emotion == pytest.approx(vector, abs=0.06)
    assert by_voice.reference == number_of(recorded[NAMES[2]], REFERENCES)
    assert max(by_text.emotion) == pytest.approx(1.0, abs=0.06)
    assert (two.status_code, two.json()["error"]["param"]) == (422, "emotion_vector")
    assert (seven.status_code, seven.json()["error"]["param"]) == (422, "emotion_vector")
    assert (nobody.status_code, nobody.json()["error"]["param"]) == (422, "emotion_voice")


def test_the_same_seed_gives_the_same_bytes_while_others_speak(app: RunningApp) -> None:
    async def ask() -> list[bytes]:
        async with httpx.AsyncClient(base_url=app.url, timeout=60) as client:
            wishes = [{"seed": 7}, {}, {"seed": 8}, {"seed": 7}, {}]
            bodies = [{"text": "once more. and again.", "speaker_id": NAMES[0], **wish} for wish in wishes]
            return [answer.content for answer in await asyncio.gather(*(client.post("/synthesize", json=b) for b in bodies))]

    same, unset, other, again, unset_too = asyncio.run(ask())

    assert same == again
    assert len({same, unset, other, unset_too}) == 4


def test_the_older_version_is_stretched_and_the_answer_says_so(app: RunningApp) -> None:
    text = "the heron stands in the river all day"

    for speed in (0.5, 1.0, 2.0):
        answer = speak(app, text=text, speed=speed)
        assert answer.headers["x-speed-method"] == ("native" if speed == 1.0 else "stretched")
        assert float(answer.headers["x-audio-seconds"]) == pytest.approx(seconds_of(text) / speed, rel=0.03)
        assert heard(answer.content)[0].code == code_of(text)


@pytest.mark.parametrize(
    ("word", "status", "code"),
    [
        ("oomalways", 503, "out_of_memory"),
        ("raises", 500, "item_failed"),
        ("asserts", 500, "worker_died"),
        ("dies", 500, "worker_died"),
    ],
)
def test_what_fails_fails_alone_and_says_why(app: RunningApp, word: str, status: int, code: str) -> None:
    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=app.url, timeout=60) as client:
            texts = [f"sentence {n}" for n in range(3)]
            bodies = [{"text": text, "speaker_id": NAMES[0]} for text in (f"this one {word}", *texts)]
            return list(await asyncio.gather(*(client.post("/synthesize", json=body) for body in bodies)))

    bad, *good = asyncio.run(ask())

    assert (bad.status_code, bad.json()["error"]["code"]) == (status, code)
    assert "secret" not in bad.text
    assert ("retry-after" in bad.headers) == (status == 503)
    assert [heard(answer.content)[0].code for answer in good] == [code_of(f"sentence {n}") for n in range(3)]


def test_what_hangs_is_ended_and_the_next_one_is_answered(
    make_checkout: MakeCheckout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "Policy", partial(Policy, batch_limit_s=0.5, slowness=1.0))  # not the minute that it is
    (tmp_path / "voices").mkdir()
    shutil.copy(CLIPS[0], tmp_path / "voices")
    python = make_checkout("2.5") / ".venv" / "bin" / "python"
    service = create_service(Settings(tts_engine="indextts2", indextts_python=python, cache_hub=tmp_path), "tts")
    with TestClient(build_app(service.settings, service), base_url="http://127.0.0.1") as client:
        bad = client.post("/synthesize", json={"text": "this one hangs"})
        good = client.post("/synthesize", json={"text": "the next one", "speed": 2.0})

    assert (bad.status_code, bad.json()["error"]["code"]) == (500, "worker_died")
    assert [sentence.code for sentence in heard(good.content)] == [code_of("the next one")]
    assert good.headers["x-speed-method"] == "native"  # it is the later version


def test_what_comes_out_wrong_twice_is_told_in_a_header_and_counted(app: RunningApp) -> None:
    said = ["a good beginning.", "this silence is golden.", "oombeams is no way to speak.", "it is tooshort for its text."]

    answer = speak(app, text=" ".join([*said, "this one is endless.", "and a good end."]))

    assert answer.status_code == 200
    assert answer.headers["x-speech-defects"] == "2:silent,4:too_short,5:cut_off"
    assert answer.headers["x-speech-reduced"] == "3"
    assert len(heard(answer.content)) == 5  # and one that nobody hears
    counted = app.client.get("/metrics").text
    for defect in ("silent", "too_short", "cut_off"):
        assert f'steadyvoice_speech_defects_total{{defect="{defect}"}} 1.0' in counted
    assert "steadyvoice_speech_reduced_total 1.0" in counted


def test_of_twenty_callers_each_hears_its_first_sentence_before_anybody_hears_a_tenth(app: RunningApp) -> None:
    async def listen(client: httpx.AsyncClient, number: int) -> tuple[float, float]:
        text = " ".join(f"caller {number} says {word}." for word in WORDS[:10])
        first = 0.0
        async with client.stream(
            "POST", "/synthesize", json={"text": text, "speaker_id": NAMES[number % 3], "format": "pcm", "stream": True}
        ) as answer:
            async for _ in answer.aiter_bytes():
                first = first or time.monotonic()
        return first, time.monotonic()

    async def ask() -> list[tuple[float, float]]:
        async with httpx.AsyncClient(base_url=app.url, timeout=60, limits=httpx.Limits(max_connections=20)) as client:
            return list(await asyncio.gather(*(listen(client, number) for number in range(20))))

    times = asyncio.run(ask())

    assert max(first for first, _ in times) < min(last for _, last in times)


@dataclass(frozen=True)
class Wish:
    """One of many requests, and what its answer has to be."""

    body: dict[str, Any]
    kind: str  # whole, streamed, cancelled, bad


def wishes(count: int) -> list[Wish]:
    chance = random.Random(5)
    found = []
    for number in range(count):
        emotion, strength = chance.choice(EMOTIONS), chance.choice([0.5, 1.0])
        text = f"{number} {' '.join(chance.sample(WORDS, 4))}"
        body: dict[str, Any] = {"text": text, "speaker_id": chance.choice(NAMES), "speed": chance.choice([0.5, 1.0, 2.0])}
        body |= {"emotion": emotion, "emotion_strength": strength, "format": chance.choice(["wav", "flac", "mp3", "opus"])}
        kind = chance.choices(["whole", "streamed", "cancelled", "bad"], [6, 2, 1, 1])[0]
        body |= {"stream": kind in ("streamed", "cancelled")}
        if kind == "bad":
            body |= chance.choice([{"speed": 3.0}, {"speaker_id": "../x"}, {"text": "  "}, {"emotion_vector": [2.0] * 8}])
        if kind == "cancelled":
            body["text"] += ". " + ". ".join(WORDS)
        found.append(Wish(body, kind))
    return found


async def fulfil(client: httpx.AsyncClient, wish: Wish) -> httpx.Response | None:
    if wish.kind != "cancelled":
        return await client.post("/synthesize", json=wish.body)
    async with client.stream("POST", "/synthesize", json=wish.body) as answer:
        async for _ in answer.aiter_bytes():
            return None  # has heard enough
    return None


def test_two_hundred_at_once_each_get_their_own_and_memory_stays(app: RunningApp, recorded: dict[str, bytes]) -> None:
    asked = wishes(200)

    async def ask(asked: list[Wish]) -> list[httpx.Response | None]:
        limits = httpx.Limits(max_connections=200)
        async with httpx.AsyncClient(base_url=app.url, timeout=120, limits=limits) as client:
            return list(await asyncio.gather(*(fulfil(client, wish) for wish in asked)))

    asyncio.run(ask(asked[:80]))  # everything that grows once has grown
    before = app.worker().memory_info().rss
    answers = asyncio.run(ask(asked))
    grown = app.worker().memory_info().rss - before

    assert {wish.kind for wish in asked} == {"whole", "streamed", "cancelled", "bad"}
    for wish, answer in zip(asked, answers, strict=True):
        if answer is None:
            continue
        if wish.kind == "bad":
            assert answer.status_code == 422, answer.text
            continue
        assert answer.status_code == 200, answer.text
        (sentence,) = heard(answer.content)
        assert sentence.voice == said_by(recorded[wish.body["speaker_id"]])
        assert sentence.code == code_of(wish.body["text"])
        assert felt(sentence) == wish.body["emotion"]
    assert grown < 5_000_000
    assert app.client.get("/memory").json()["worker"]["state"] == "ready"
