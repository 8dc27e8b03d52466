"""/transcribe and /synthesize through the Gradio client, as scripts call them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file

from steadyvoice.testing.running_apps import CLIPS, RunningApp
from tests.audio import loudness, read


@pytest.fixture(scope="module")
def asr_client(asr: RunningApp) -> Client:
    return Client(asr.url, verbose=False)


@pytest.fixture(scope="module")
def tts_client(tts: RunningApp) -> Client:
    return Client(tts.url, verbose=False)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_transcribe_gives_the_same_text_as_the_api(asr: RunningApp, asr_client: Client, path: Path) -> None:
    with asr.client as client:
        expected = client.post("/v1/audio/transcriptions", files={"file": (path.name, path.read_bytes())}).json()["text"]
    text, details = asr_client.predict(handle_file(str(path)), api_name="/transcribe")
    assert text == expected == details["text"]
    assert details["segments"]
    assert details["words"]


def test_transcribe_refuses_a_language_that_the_engine_does_not_know(asr_client: Client) -> None:
    with pytest.raises(Exception, match="not available with engine pocketsphinx"):
        asr_client.predict(handle_file(str(CLIPS[0])), language="zh", api_name="/transcribe")


@pytest.mark.parametrize(
    "wrong", [{"language": None}, {"language": 7}, {"use_itn": "perhaps"}, {"merge_length_s": "ten"}, {"merge_length_s": [1]}]
)
def test_transcribe_names_the_parameter_whose_value_has_the_wrong_type(asr_client: Client, wrong: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=f"^{next(iter(wrong))}: "):
        asr_client.predict(handle_file(str(CLIPS[0])), **wrong, api_name="/transcribe")


def test_transcribe_without_audio_is_told_so(asr_client: Client) -> None:
    with pytest.raises(Exception, match="no audio was given"):
        asr_client.predict(None, api_name="/transcribe")


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:9/a.wav", "https://example.invalid/a.wav", "../../etc/passwd"])
def test_a_path_or_url_instead_of_an_upload_is_refused(asr: RunningApp, path: str) -> None:
    data = [{"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}, "auto", True, 10]
    with httpx.Client(base_url=asr.url, timeout=60) as client:
        event = client.post("/gradio_api/call/transcribe", json={"data": data}).json()["event_id"]
        answer = client.get(f"/gradio_api/call/transcribe/{event}").text
    assert "event: error" in answer
    assert "root:" not in answer


def test_synthesize_gives_a_file_that_can_be_heard(tts_client: Client) -> None:
    path, details = tts_client.predict(
        "The weather is nice today.", emotion="happy", speaker_id="m2", format="flac", api_name="/synthesize"
    )
    samples, rate = read(Path(path).read_bytes())
    assert path.endswith(".flac")
    assert len(samples) / rate == pytest.approx(details["audio_seconds"], abs=0.01)
    assert details["tokens"] == round(details["audio_seconds"] * 50)
    assert loudness(samples) > 0.03


def test_synthesize_names_what_is_wrong(tts_client: Client) -> None:
    with pytest.raises(Exception, match="emotion 'furious' is unknown"):
        tts_client.predict("Hello.", emotion="furious", api_name="/synthesize")


def test_a_real_recording_elsewhere_on_this_machine_is_neither_read_nor_copied(asr: RunningApp, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(CLIPS[2].read_bytes())
    before = set(asr.files.rglob("*"))
    for path in (str(secret), str(CLIPS[0]), "/etc/passwd", "/proc/self/environ"):
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "auto", True, 10]
        with httpx.Client(base_url=asr.url, timeout=60) as client:
            event = client.post("/gradio_api/call/transcribe", json={"data": data}).json()["event_id"]
            answer = client.get(f"/gradio_api/call/transcribe/{event}").text
        assert "event: error" in answer
        assert "amiable" not in answer
    assert set(asr.files.rglob("*")) == before
