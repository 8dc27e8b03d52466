"""The voice routes with real files and a real door; no engine is ever loaded for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx
import numpy as np
import openai
import pytest
import uvicorn
from starlette.testclient import TestClient

from steadyvoice.api.app import close_routes, create_app
from steadyvoice.api.voice_routes import add_voice_routes
from steadyvoice.engine_specs import INDEXTTS2, OPENAI_VOICES
from steadyvoice.media.sliced_work import Steps
from steadyvoice.provision.service_factory import create_service
from steadyvoice.service.service import Service
from steadyvoice.service.voices.store import Voice, VoiceStore
from steadyvoice.settings import Settings
from steadyvoice.testing.ports import free_port
from tests.audio import as_format, clip, read, wav_bytes

SPEECH = clip(Path(__file__).resolve().parents[1] / "data" / "austen-0930.wav")  # 3.3 s
RECORDING = wav_bytes(SPEECH)
ADDING = ("/v1/voices", "/v1/audio/voices")


@dataclass
class App:
    client: TestClient
    service: Service
    folder: Path


@contextmanager
def serving(folder: Path, *, clones: bool = True, **settings: object) -> Iterator[App]:
    service = create_service(Settings(cache_hub=folder, **settings), "tts")  # type: ignore[arg-type]
    voices = None
    if clones:
        service.spec = INDEXTTS2
        voices = VoiceStore(folder / "voices", folder / "examples")
    app = create_app(service)
    add_voice_routes(app, service, voices)
    close_routes(app)
    with TestClient(app, base_url="http://127.0.0.1") as client:  # closes the service at its end
        yield App(client, service, folder / "voices")


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "voice_01.wav").write_bytes(RECORDING)
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def espeak(tmp_path: Path) -> Iterator[App]:
    with serving(tmp_path, clones=False) as running:
        yield running


def add(app: App, name: str, content: bytes = RECORDING) -> httpx.Response:
    return app.client.post("/v1/voices", data={"name": name}, files={"file": ("me.wav", content)})


def test_a_voice_is_added_listed_heard_and_removed(app: App) -> None:
    added = add(app, "小雅")
    assert added.status_code == 201
    listed = app.client.get("/v1/voices").json()
    assert listed["clones"] is True
    assert listed["languages"] == ["auto", "zh", "en"]
    assert [voice["id"] for voice in listed["data"]] == ["小雅", "voice_01"]
    assert listed["data"][0] == added.json()
    assert added.json() == {
        "id": "小雅",
        "object": "voice",
        "speaker_id": 1,
        "aliases": [],
        "languages": ["zh", "en"],
        "engine": "indextts2",
        "seconds": pytest.approx(3.29, abs=0.01),
        "origin": "stored",
    }
    heard = app.client.get("/v1/voices/小雅/audio")
    assert heard.headers["content-type"] == "audio/wav"
    samples, rate = read(heard.content)
    assert rate == 22_050
    assert len(samples) / rate == pytest.approx(3.29, abs=0.01)
    removed = app.client.delete("/v1/voices/小雅")
    assert (removed.status_code, removed.json()) == (200, {"id": "小雅", "object": "voice", "deleted": True})
    assert [voice["id"] for voice in app.client.get("/v1/voices").json()["data"]] == ["voice_01"]
    for answer in (app.client.delete("/v1/voices/小雅"), app.client.get("/v1/voices/小雅/audio")):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_openais_sdk_creates_and_deletes_a_voice(app: App) -> None:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app.client.app, port=port, log_config=None, lifespan="off"))
    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(server.run)
        try:
            sdk = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=30)
            while not server.started and not served.done():
                wait([served], 0.02)
            sample = ("me.m4a", as_format(SPEECH, "m4a"))
            voice = sdk.audio.voices.create(name="Zoë 2", audio_sample=sample, consent="cons_1234")
            assert (voice.id, voice.name, voice.object, voice.type) == ("Zoë 2", "Zoë 2", "audio.voice", "audio_sample")
            assert voice.created_at == int((app.folder / "Zoë 2.wav").stat().st_mtime)
            with pytest.raises(openai.ConflictError, match="already"):
                sdk.audio.voices.create(name="Zoë 2", audio_sample=sample, consent="cons_1234", type="audio_sample")
            with pytest.raises(openai.BadRequestError, match="audio_sample"):
                sdk.audio.voices.create(name="Max", prompt="a deep voice", type="prompt")
            deleted = sdk.audio.voices.delete(voice.id)
            assert (deleted.id, deleted.object, deleted.deleted) == ("Zoë 2", "audio.voice.deleted", True)
            with pytest.raises(openai.NotFoundError, match="no voice"):
                sdk.audio.voices.delete(voice.id)
        finally:
            server.should_exit = True
            served.result(30)


@pytest.mark.parametrize(
    ("name", "content", "status", "code", "message"),
    [
        ("../ann", RECORDING, 422, "invalid_value", "is no name of a voice"),
        ("12", RECORDING, 422, "invalid_value", "not digits only"),
        ("Alloy", RECORDING, 422, "invalid_value", "one of OpenAI's voice names"),
        ("voice_01", RECORDING, 409, "conflict", "already"),
        ("ann", b"not audio", 415, "unsupported_media", "known formats: wav"),
        ("ann", b"", 422, "invalid_value", "0 bytes"),
        ("ann", wav_bytes(np.tile(SPEECH, 6)), 413, "too_large", "the limit is 15 s"),
        ("ann", wav_bytes(SPEECH[:8_000]), 422, "invalid_value", "1 to 15 s are needed"),
    ],
)
def test_what_will_not_do_is_refused_by_name_or_recording(
    app: App, name: str, content: bytes, status: int, code: str, message: str
) -> None:
    answer = add(app, name, content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert message in answer.json()["error"]["message"]
    assert not app.folder.exists()


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"files": {"file": ("a.wav", RECORDING)}}, "name: Field required"),
        ({"data": {"name": "ann"}}, "no file in the field 'file'"),
        ({"data": {"name": "ann", "file": "/etc/passwd"}}, "no file in the field 'file'"),
        ({"data": {"name": "ann", "file": "http://127.0.0.1/a.wav"}, "files": {"x": ("a.wav", b"")}}, "'x' takes text"),
        ({"files": {"name": ("ann", b"ann")}}, "the field 'name' takes text"),
        ({"data": {"name": ["ann", "ben"]}, "files": {"file": ("a.wav", RECORDING)}}, "'name' is given twice"),
        ({"data": {"name": "ann", "nmae": "ann"}, "files": {"file": ("a.wav", RECORDING)}}, "nmae: there is no such field"),
        ({"json": {"name": "ann"}}, "name: Field required"),
    ],
)
def test_a_form_that_lacks_something_is_refused_naming_the_field(app: App, form: dict[str, object], message: str) -> None:
    answer = app.client.post("/v1/voices", **form)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ADDING)
@pytest.mark.parametrize("declared", [True, False])
def test_an_upload_over_the_limit_is_refused_whether_its_length_is_declared_or_not(
    tmp_path: Path, path: str, declared: bool
) -> None:
    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(40):
            yield bytes(100_000)
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"} | ({"Content-Length": "4000100"} if declared else {})
    with serving(tmp_path, max_upload_mb=1.0) as app:
        answer = app.client.post(path, content=body(), headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
        assert "upload limit of 1 MB" in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ADDING)
def test_a_recording_may_be_larger_than_a_text_and_50_mb_at_most(app: App, path: str) -> None:
    answer = app.client.post(path, headers={"Content-Length": "51000001"})
    assert answer.status_code == 413
    assert "upload limit of 50 MB" in answer.json()["error"]["message"]
    loud = np.tile(SPEECH, 4)[: 12 * 16_000]
    field = "file" if path == "/v1/voices" else "audio_sample"
    large = wav_bytes(np.repeat(loud, 12), 192_000)  # 4.6 MB
    assert app.client.post(path, data={"name": "ann"}, files={field: ("a.wav", large)}).is_success


def test_an_upload_takes_a_place_like_any_other_work(tmp_path: Path) -> None:
    with serving(tmp_path, queue_size=0, concurrency=1) as app:
        assert add(app, "ann").status_code == 201
        with app.service.admission.limit.acquire("another caller"):
            for answer in (add(app, "ben"), app.client.get("/v1/voices/ann/audio")):
                assert answer.status_code == 429
                assert int(answer.headers["retry-after"]) >= 1
            assert app.client.get("/v1/voices").status_code == 200, "looking costs nothing"
            assert app.client.post("/v1/voices").status_code == 429, "refused before the form is looked at"
        assert add(app, "ben").status_code == 201


def test_the_place_is_held_while_the_recording_is_decoded_and_the_upload_is_closed_after(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, BinaryIO]] = []
    really_add = VoiceStore.add_steps

    def watched(store: VoiceStore, name: str, file: BinaryIO) -> Steps[Voice]:
        seen.append((app.service.admission.limit.in_flight, file))
        return really_add(store, name, file)

    monkeypatch.setattr(VoiceStore, "add_steps", watched)
    assert add(app, "ann").status_code == 201
    assert add(app, "ann").status_code == 409
    assert [inside for inside, _ in seen] == [1, 1]
    assert all(file.closed for _, file in seen)
    assert app.service.admission.limit.in_flight == 0


def test_an_example_is_heard_and_not_removed(app: App) -> None:
    assert app.client.get("/v1/voices/voice_01/audio").status_code == 200
    answer = app.client.delete("/v1/voices/voice_01")
    assert answer.status_code == 422
    assert "an example" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "path", ["/v1/voices/..%2F..%2Fetc%2Fpasswd", "/v1/voices/%2e%2e", "/v1/voices/a%00b", "/v1/voices/a.wav"]
)
def test_a_path_in_the_place_of_a_name_leads_nowhere(app: App, path: str) -> None:
    for answer in (app.client.delete(path), app.client.get(f"{path}/audio")):
        assert answer.status_code in (404, 422)
        assert set(answer.json()) == {"error"}


def test_built_in_voices_are_listed_with_openais_names_and_stay_as_they_are(espeak: App) -> None:
    listed = espeak.client.get("/v1/voices").json()
    assert set(listed) == {"object", "data", "languages", "emotions", "formats", "speed", "clones", "note"}
    assert listed["clones"] is False
    assert sorted(alias for voice in listed["data"] for alias in voice["aliases"]) == sorted(OPENAI_VOICES)
    assert listed["data"][1] == {
        "id": "f2",
        "object": "voice",
        "speaker_id": 1,
        "aliases": ["ash", "marin"],
        "languages": ["zh", "yue", "en", "ja", "ko"],
        "engine": "espeak",
    }
    for answer in (
        add(espeak, "ann"),
        espeak.client.post("/v1/audio/voices", data={"name": "ann"}, files={"audio_sample": ("a.wav", RECORDING)}),
        espeak.client.delete("/v1/voices/f1"),
        espeak.client.delete("/v1/audio/voices/f1"),
    ):
        assert answer.status_code == 409
        assert answer.json()["error"]["message"] == "the espeak voices are built in: none can be added or removed"
    assert espeak.client.get("/v1/voices/f1/audio").status_code == 404
    assert not espeak.folder.exists()
