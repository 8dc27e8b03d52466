"""Requests as clients of other speech servers make them: speaches, Kokoro-FastAPI and Open WebUI."""

from __future__ import annotations

import numpy as np
import openai
import pytest

from steadyvoice.engine_specs import ESPEAK
from steadyvoice.testing.running_apps import CLIPS, RunningApp
from tests.audio import loudness, read, wav_bytes

ROUTE = "/v1/audio/transcriptions"
SILENCE = wav_bytes(np.zeros(45 * 16_000, np.float32))  # longer than a segment may be


def transcribe(app: RunningApp, **fields: str):
    with app.client as client:
        return client.post(ROUTE, files={"file": ("audio.wav", CLIPS[2].read_bytes(), "audio/wav")}, data=fields)


# --- speaches


@pytest.mark.parametrize(
    ("response_format", "content_type", "begins"),
    [
        ("json", "application/json", '{"text":"he might'),
        ("verbose_json", "application/json", '{"task":"transcribe"'),
        ("text", "text/plain; charset=utf-8", "he might"),
        ("srt", "text/plain; charset=utf-8", "1\n00:00:00,"),
        ("vtt", "text/plain; charset=utf-8", "WEBVTT\n\n00:00:00."),
    ],
)
def test_each_format_has_the_content_type_that_speaches_gives_it(
    asr: RunningApp, response_format: str, content_type: str, begins: str
) -> None:
    answer = transcribe(asr, model="whisper-1", language="en", response_format=response_format, temperature="0.0")
    assert (answer.status_code, answer.headers["content-type"]) == (200, content_type)
    assert answer.text.startswith(begins)


def test_silence_is_an_empty_transcript_in_every_way_of_asking(asr: RunningApp) -> None:
    with openai.OpenAI(base_url=f"{asr.url}/v1", api_key="none", max_retries=0) as client:

        def ask(**options: object):
            return client.audio.transcriptions.create(file=("silence.wav", SILENCE), model="whisper-1", **options)  # type: ignore[call-overload]

        assert ask(response_format="json").text == ""
        verbose = ask(response_format="verbose_json")
        assert (verbose.text, verbose.segments, verbose.words) == ("", [], None)
        assert [(event.type, event.text) for event in ask(stream=True)] == [("transcript.text.done", "")]


@pytest.mark.parametrize("field", ["start", "duration", "hotwords", "vad_filter"])
def test_fields_of_speaches_that_would_change_the_answer_are_refused_by_name(asr: RunningApp, field: str) -> None:
    answer = transcribe(asr, **{field: "1"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_times_of_segments_may_be_asked_for_in_plain_json(asr: RunningApp) -> None:
    assert transcribe(asr, **{"timestamp_granularities[]": "segment"}).status_code == 200


def test_health_and_documentation_are_where_they_are_looked_for(asr: RunningApp, tts: RunningApp) -> None:
    for app in (asr, tts):
        with app.client as client:
            assert client.get("/health").json() == {"status": "healthy"}
            assert client.head("/health").status_code == 200
            assert client.get("/docs").headers["content-type"].startswith("text/html")


# --- Kokoro-FastAPI and Open WebUI


KOKORO = {
    "model": "tts-1",
    "input": "Hello world. How are you today?",
    "voice": "nova",
    "response_format": "wav",
    "download_format": "mp3",
    "speed": 1.0,
    "return_download_link": False,
    "lang_code": "a",
    "volume_multiplier": 1.0,
    "normalization_options": {
        "normalize": True,
        "unit_normalization": False,
        "url_normalization": True,
        "email_normalization": True,
        "optional_pluralization_normalization": True,
        "phone_normalization": True,
    },
}


@pytest.mark.parametrize("stream", [False, True])
def test_kokoros_whole_request_is_spoken(tts: RunningApp, stream: bool) -> None:
    with tts.client as client:
        answer = client.post("/v1/audio/speech", json=KOKORO | {"stream": stream})
    assert answer.status_code == 200, answer.text
    assert ("content-length" in answer.headers) is not stream
    assert loudness(read(answer.content)[0]) > 0.03


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"lang_code": "f"}, "lang_code"),
        ({"volume_multiplier": 2.0}, "volume_multiplier"),
        ({"return_download_link": True}, "return_download_link"),
        ({"normalization_options": {"normalize": False}}, "normalization_options"),
        ({"download_format": "midi"}, "download_format"),
        ({"voice": "af_sky+af_bella"}, "voice"),
        ({"input": ""}, "input"),
        ({"return_timestamps": True}, "return_timestamps"),
    ],
)
def test_what_would_be_another_answer_is_refused_by_name(tts: RunningApp, change: dict[str, object], param: str) -> None:
    with tts.client as client:
        answer = client.post("/v1/audio/speech", json=KOKORO | change)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_voices_are_listed_as_open_webui_reads_them_and_as_kokoros_old_clients_do(tts: RunningApp) -> None:
    with tts.client as client:
        voices = client.get("/v1/audio/voices").json()["voices"]
        assert {voice["id"]: voice["name"] for voice in voices} == {name: name for name in ESPEAK.speakers}
        assert client.get("/v1/audio/voices", params={"legacy": "true"}).json()["voices"] == list(ESPEAK.speakers)


def test_a_model_is_retrieved_or_not_found(tts: RunningApp) -> None:
    with tts.client as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
            "espeak",
            "tts-1",
            "tts-1-hd",
            "gpt-4o-mini-tts",
        ]
        assert client.get("/v1/models/tts-1").json()["object"] == "model"
        missing = client.get("/v1/models/nonexistent-model")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")


# --- one error body


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1", 404),
        ("POST", "/v1/nothing", 404),
        ("GET", "/synthesize/nothing", 404),
        ("GET", "/gradio_api/nothing", 404),
        ("PUT", "/v1/models", 405),
        ("TRACE", "/live", 405),
        ("OPTIONS", "/v1/models", 405),
        ("POST", "/docs", 405),
        ("POST", "/openapi.json", 405),
        ("DELETE", "/", 405),
    ],
)
def test_unknown_paths_and_wrong_methods_have_the_one_error_body(
    asr: RunningApp, tts: RunningApp, method: str, path: str, status: int
) -> None:
    for app in (asr, tts):
        with app.client as client:
            answer = client.request(method, path)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json().keys() == {"error"}
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
        assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(("path", "status"), [("/synthesize", 422), ("/v1/audio/speech", 400)])
@pytest.mark.parametrize("body", [b"{nope", b"\xff\xfe", b"[]", b"null", b'"text"'])
def test_a_body_that_is_no_object_is_an_invalid_value(tts: RunningApp, path: str, status: int, body: bytes) -> None:
    with tts.client as client:
        answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_value")


@pytest.mark.parametrize(("path", "status"), [("/v1/audio/transcriptions", 400)])
def test_a_form_that_cannot_be_read_is_an_invalid_value(asr: RunningApp, path: str, status: int) -> None:
    with asr.client as client:
        answer = client.post(path, content=b"--x\r\nnonsense", headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, "invalid_value")
