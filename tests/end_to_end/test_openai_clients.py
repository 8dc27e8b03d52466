"""OpenAI's SDKs for Python and JavaScript against the apps: fields, models, events, and the exceptions that callers catch."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from steadyvoice.engine_specs import OPENAI_VOICES
from steadyvoice.testing.running_apps import CLIPS, RunningApp
from tests.audio import clip, read, wav_bytes

SCRIPT = Path(__file__).with_name("openai_transcriptions.mjs")
CLIP = CLIPS[2]
SECONDS = 3.29  # of it
MODELS = ["pocketsphinx", "whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe"]
SEGMENT_FIELDS = {
    *("id", "seek", "start", "end", "text", "tokens", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"),
}


def sdk(app: RunningApp) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)


def test_verbose_answers_have_what_a_strict_client_needs(asr: RunningApp) -> None:
    with asr.client as client:
        answer = client.post(
            "/v1/audio/transcriptions",
            files={"file": ("a.wav", CLIP.read_bytes())},
            data={"model": "whisper-1", "response_format": "verbose_json"},
        )
    parsed = TranscriptionVerbose.model_validate_json(answer.content, strict=True)
    assert answer.json()["task"] == "transcribe"
    assert parsed.segments is not None
    (segment,) = parsed.segments
    assert answer.json()["segments"][0].keys() >= SEGMENT_FIELDS
    assert segment.seek == int(segment.start * 100)
    assert 0.5 < segment.compression_ratio < 2
    # The neutral values of an engine that cannot tell.
    assert (segment.tokens, segment.avg_logprob, segment.no_speech_prob, segment.temperature) == ([], 0, 0, 0)


@pytest.mark.parametrize("strategy", ["auto", {"type": "server_vad"}, {"type": "server_vad", "threshold": 0.4}])
def test_chunking_is_done_as_asked(asr: RunningApp, strategy: str | dict[str, object]) -> None:
    with sdk(asr) as client, CLIP.open("rb") as file:
        answer = client.audio.transcriptions.create(file=file, model="whisper-1", chunking_strategy=strategy)  # type: ignore[call-overload]
    assert "amiable" in answer.text


def test_a_longer_pause_joins_what_a_shorter_one_divides(asr: RunningApp) -> None:
    twice = wav_bytes(np.concatenate([clip(CLIP), np.zeros(12_000, np.float32), clip(CLIP)]))  # 0.75 s between them

    def segments(silence_ms: int) -> int:
        vad = {"type": "server_vad", "silence_duration_ms": silence_ms}
        fields = {"response_format": "verbose_json", "merge_length_s": "0", "chunking_strategy": json.dumps(vad)}
        with asr.client as client:
            files = {"file": ("a.wav", twice)}
            return len(client.post("/v1/audio/transcriptions", files=files, data=fields).json()["segments"])

    assert (segments(300), segments(3_000)) == (2, 1)


def test_refusals_are_the_exceptions_that_callers_catch(asr: RunningApp, tts: RunningApp) -> None:
    def transcribe(**options: object) -> None:
        with sdk(asr) as client, CLIP.open("rb") as file:
            client.audio.transcriptions.create(**{"file": file, "model": "whisper-1", **options})  # type: ignore[call-overload]

    with pytest.raises(openai.BadRequestError) as refused:
        transcribe(temperature=1.5)
    assert (refused.value.param, refused.value.code) == ("temperature", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="whisper-9") as unknown:
        transcribe(model="whisper-9")
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with (
        sdk(asr) as client,
        CLIP.open("rb") as file,
        pytest.raises(openai.BadRequestError, match="pocketsphinx cannot translate"),
    ):
        client.audio.translations.create(file=file, model="whisper-1")
    with sdk(tts) as client, pytest.raises(openai.NotFoundError, match="known here: espeak, tts-1"):
        client.audio.speech.create(model="kokoro-9", voice="alloy", input="hi")
    with sdk(tts) as client, pytest.raises(openai.BadRequestError, match=r"0\.25 to 4"):
        client.audio.speech.create(model="tts-1", voice="alloy", input="hi", speed=4.5)


def test_models_are_found_by_their_own_name_and_by_openais(asr: RunningApp) -> None:
    with sdk(asr) as client:
        assert [model.id for model in client.models.list()] == MODELS
        alias = client.models.retrieve("whisper-1")
        assert (alias.id, alias.object, alias.model_extra and alias.model_extra["alias_of"]) == (
            "whisper-1",
            "model",
            "pocketsphinx",
        )
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("whisper-9")


def test_every_voice_of_openais_speaks_and_speed_reaches_from_a_quarter_to_four(tts: RunningApp) -> None:
    with sdk(tts) as client:

        def seconds(**options: object) -> float:
            body = {"model": "tts-1", "voice": "alloy", "input": "Hello there, friend.", "response_format": "wav", **options}
            samples, rate = read(client.audio.speech.create(**body).read())  # type: ignore[arg-type]
            return len(samples) / rate

        assert all(seconds(voice=voice) > 0.5 for voice in OPENAI_VOICES)
        normal = seconds()
        assert [seconds(speed=speed) for speed in (0.25, 4.0)] == pytest.approx([normal * 4, normal / 4], rel=0.1)


def test_openais_package_for_javascript_transcribes_and_is_refused_by_name(asr: RunningApp) -> None:
    done = subprocess.run(["node", SCRIPT, f"{asr.url}/v1", CLIP], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["verbose"]["duration"] == pytest.approx(SECONDS, abs=0.01)
    assert seen["verbose"]["segments"][0].keys() >= SEGMENT_FIELDS
    assert " ".join(word["word"] for word in seen["verbose"]["words"]) == seen["verbose"]["text"]
    assert "amiable" in seen["chunked"]
    assert seen["subtitles"].startswith("1\n00:00:00,")
    assert seen["events"] == ["transcript.text.delta", "transcript.text.done"]
    assert seen["model"] == ["gpt-4o-mini-transcribe", "model", "pocketsphinx"]
    assert seen["models"] == MODELS
    bad, missing = ("BadRequestError", 400, "invalid_value"), ("NotFoundError", 404, "model_not_found")
    for name, expected, param in (
        ("temperature", bad, "temperature"),
        ("model", missing, "model"),
        ("threshold", bad, "chunking_strategy"),
        ("translation", bad, None),
        ("retrieve", missing, "model"),
    ):
        refusal = seen["refusals"][name]
        assert (refusal["kind"], refusal["status"], refusal["code"], refusal["param"] or None) == (*expected, param), name
