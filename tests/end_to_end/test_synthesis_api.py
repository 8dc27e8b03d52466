"""/synthesize, /v1/audio/speech and what belongs to them, seen from outside, against the real app and the real voice. It is
listened to: a voice that says nothing, or the wrong thing, does not pass."""

from __future__ import annotations

import base64
import json
import subprocess
from itertools import combinations
from pathlib import Path

import jiwer
import numpy as np
import openai
import pytest

from steadyvoice.engine_specs import ESPEAK
from steadyvoice.testing.running_apps import RunningApp
from tests.audio import loudness, median_pitch, read, voice_distance

SENTENCES = {
    "zh": "今天天气很好，我们去公园散步吧。",
    "yue": "今日天氣好好，我哋去公園行下啦。",
    "en": "The weather is nice today, shall we go to the park?",
    "ja": "こんにちは、きょうはいいてんきですね。",
    "ko": "안녕하세요, 오늘 날씨가 좋네요.",
}
TEN_SENTENCES = " ".join(
    f"This is sentence number {number}."
    for number in "one,two,three,four,five,six,seven,eight,nine,ten".split(",")  # noqa: SIM905
)


def speak(app: RunningApp, **body: object):
    with app.client as client:
        return client.post("/synthesize", json=body)


def sdk(app: RunningApp) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("language", SENTENCES)
def test_each_language_is_found_from_its_script_and_spoken(tts: RunningApp, language: str) -> None:
    found = speak(tts, text=SENTENCES[language])
    given = speak(tts, text=SENTENCES[language], language=language)
    for answer in (found, given):
        assert answer.status_code == 200, answer.text
        samples, rate = read(answer.content)
        assert rate == 22_050
        assert 1.5 < len(samples) / rate < 8
        assert loudness(samples) > 0.03
    # The same voice was chosen: a foreign one would take another time.
    lengths = [float(answer.headers["x-audio-seconds"]) for answer in (found, given)]
    assert lengths[0] == pytest.approx(lengths[1], rel=0.02)


@pytest.mark.parametrize("language", SENTENCES)
def test_happy_is_louder_and_higher_than_sad(tts: RunningApp, language: str) -> None:
    happy, sad = (
        read(speak(tts, text=SENTENCES[language], emotion=emotion, emotion_strength=1.0).content) for emotion in ("happy", "sad")
    )
    assert loudness(happy[0]) > 1.2 * loudness(sad[0])
    assert median_pitch(*happy) > 1.15 * median_pitch(*sad)


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.5, 2.0])
def test_speed_changes_duration_by_its_factor(tts: RunningApp, speed: float) -> None:
    for text in SENTENCES.values():
        normal, changed = (float(speak(tts, text=text, speed=s).headers["x-audio-seconds"]) for s in (1.0, speed))
        assert changed == pytest.approx(normal / speed, rel=0.1)


def test_headers_say_what_was_used(tts: RunningApp) -> None:
    answer = speak(tts, text="Hello there, headers.")
    samples, rate = read(answer.content)
    seconds = float(answer.headers["x-audio-seconds"])
    assert seconds == pytest.approx(len(samples) / rate, abs=0.001)
    assert int(answer.headers["x-tokens"]) == round(seconds * 50)
    assert float(answer.headers["x-queue-seconds"]) >= 0
    assert 0 < float(answer.headers["x-inference-seconds"]) < 5
    assert answer.headers["x-engine"].startswith("espeak/1.")
    assert answer.headers["x-characters"] == str(len("Hello there, headers."))
    assert answer.headers["x-speed-method"] == "native"


def test_an_english_sentence_spoken_here_is_recognised_there(tts: RunningApp, asr: RunningApp) -> None:
    sentence = "the people want to know what the president said about the government"
    spoken = speak(tts, text=sentence, speaker_id="f2", speed=0.9)
    with asr.client as client:
        heard = client.post("/v1/audio/transcriptions", files={"file": ("a.wav", spoken.content)}).json()["text"]
    assert jiwer.wer(sentence, heard) <= 0.35, heard


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "aac", "flac", "pcm"])
def test_the_openai_sdk_gets_every_format(tts: RunningApp, name: str) -> None:
    with sdk(tts) as client:
        audio = client.audio.speech.create(
            model="tts-1", voice="alloy", input="Hello there. How are you today?", response_format=name
        ).read()
    if name == "pcm":
        samples, rate = np.frombuffer(audio, "<i2").astype(np.float32) / 32_768, 24_000
    else:
        samples, rate = read(audio)
    assert 1.0 < len(samples) / rate < 4.0
    assert loudness(samples) > 0.03
    whole = speak(tts, text="Hello there. How are you today?")
    assert len(samples) / rate == pytest.approx(float(whole.headers["x-audio-seconds"]), abs=0.15)


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "aac", "flac", "pcm"])
def test_a_whole_file_and_a_streamed_one_last_equally_long(tts: RunningApp, name: str) -> None:
    if name == "pcm":
        lengths = [len(speak(tts, text=TEN_SENTENCES, format=name, stream=stream).content) / 48_000 for stream in (False, True)]
    else:
        files = [read(speak(tts, text=TEN_SENTENCES, format=name, stream=stream).content) for stream in (False, True)]
        lengths = [len(samples) / rate for samples, rate in files]
    assert lengths[0] > 8
    assert lengths[0] == pytest.approx(lengths[1], abs=0.1)


def test_the_openai_sdk_streams(tts: RunningApp) -> None:
    with (
        sdk(tts) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="nova", input=TEN_SENTENCES, response_format="pcm"
        ) as stream,
    ):
        pieces = list(stream.iter_bytes())
    assert len(pieces) > 1
    assert sum(map(len, pieces)) / 48_000 > 8


def test_the_openai_sdk_reads_events(tts: RunningApp) -> None:
    with (
        sdk(tts) as client,
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="nova", input=TEN_SENTENCES, response_format="wav", stream_format="sse"
        ) as stream,
    ):
        *deltas, done = [json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line]
    assert len(deltas) >= 10, "each sentence leaves as soon as it is spoken"
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    samples, rate = read(b"".join(base64.b64decode(delta["audio"]) for delta in deltas))
    assert loudness(samples) > 0.03
    assert done["type"] == "speech.audio.done"
    assert done["audio_seconds"] == pytest.approx(len(samples) / rate, abs=0.01)
    usage = done["usage"]
    assert usage["input_tokens"] == len(TEN_SENTENCES)
    assert usage["output_tokens"] == round(done["audio_seconds"] * 50)
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_openais_package_for_javascript_gets_audio_a_stream_events_and_errors(tts: RunningApp) -> None:
    script = Path(__file__).with_name("openai_speech.mjs")
    assert (script.parents[1] / "node_modules" / "openai").is_dir(), "`make unit` installs it"
    done = subprocess.run(["node", script, f"{tts.url}/v1"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)

    assert seen["type"] == "audio/mpeg"
    samples, rate = read(base64.b64decode(seen["audio"]))
    seconds = len(samples) / rate
    assert 2 < seconds < 8
    assert loudness(samples) > 0.03
    assert len(seen["chunks"]) > 1
    assert sum(seen["chunks"]) / 48_000 == pytest.approx(seconds, abs=0.15)
    assert {kind for kind, _ in seen["deltas"]} == {"speech.audio.delta"}
    assert sum(size for _, size in seen["deltas"]) == pytest.approx(sum(seen["chunks"]), rel=0.01)
    assert seen["done"]["audio_seconds"] == pytest.approx(seconds, abs=0.15)
    assert seen["voices"] == list(ESPEAK.speakers)
    assert seen["refused"] == {"kind": "BadRequestError", "status": 400, "code": "invalid_value", "param": "speed"}


def test_subtitles_tell_when_each_sentence_is_heard(tts: RunningApp) -> None:
    answer = speak(tts, text="First a sentence. Then another one, which is longer. 最后一句。")
    with tts.client as client:
        srt = client.get(f"/v1/speech/{answer.headers['x-speech-id']}/subtitles").text
    cues = [block.split("\n") for block in srt.strip().split("\n\n")]
    assert [text for _, _, text in cues] == ["First a sentence.", "Then another one, which is longer.", "最后一句。"]
    times = [tuple(_seconds(clock) for clock in line.split(" --> ")) for _, line, _ in cues]
    assert times[0][0] == 0
    assert [end for _, end in times[:-1]] == [start for start, _ in times[1:]]
    assert times[-1][1] == pytest.approx(float(answer.headers["x-audio-seconds"]), abs=0.002)
    for (start, end), text in zip(times, ("First a sentence.", "Then another one, which is longer.", "最后一句。"), strict=True):
        alone = float(speak(tts, text=text).headers["x-audio-seconds"])
        assert end - start == pytest.approx(alone, rel=0.02)


def test_a_retry_of_the_sdk_with_its_key_gets_the_same_bytes(tts: RunningApp) -> None:
    with sdk(tts) as client:
        first, again = (
            client.audio.speech.with_raw_response.create(
                model="tts-1", voice="onyx", input=TEN_SENTENCES, extra_headers={"Idempotency-Key": "order 7"}
            )
            for _ in range(2)
        )
    assert again.headers["x-cached"] == "true"
    assert again.content == first.content
    assert again.headers["content-type"] == "audio/mpeg"


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return int(hours) * 3_600 + int(minutes) * 60 + float(seconds)


def test_a_single_sentence_tells_its_usage_in_openais_route_too(tts: RunningApp) -> None:
    with tts.client as client:
        answer = client.post("/v1/audio/speech", json={"model": "tts-1", "voice": "echo", "input": "Hello there."})
    samples, rate = read(answer.content)
    assert answer.headers["content-type"] == "audio/mpeg"
    assert float(answer.headers["x-audio-seconds"]) == pytest.approx(len(samples) / rate, abs=0.1)


def test_voices_list_at_least_eight_speakers_and_each_sounds_different(tts: RunningApp) -> None:
    with tts.client as client:
        voices = client.get("/v1/voices").json()
    assert len(voices["data"]) >= 8
    assert set(voices["languages"]) == {"auto", "zh", "yue", "en", "ja", "ko"}
    spoken = {}
    for voice in voices["data"]:
        by_number, by_name = (speak(tts, text=SENTENCES["en"], speaker_id=key) for key in (voice["speaker_id"], voice["id"]))
        (one, rate), (other, _) = read(by_number.content), read(by_name.content)
        assert voice_distance(one, other, rate) < 1.0, "number and name are the same voice"
        spoken[voice["id"]] = one
    for one, other in combinations(spoken, 2):
        assert voice_distance(spoken[one], spoken[other], 22_050) > 2.0, (one, other)


BAD_BODIES = [
    ({"text": ""}, 422, "text", "nothing to say"),
    ({"text": " \n\u200b\x00 "}, 422, "text", "nothing to say"),
    ({"text": "…！？"}, 422, "text", "nothing to say"),
    ({"text": "x" * 5_001}, 413, "text", "5000"),
    ({"text": "สวัสดีครับ"}, 422, "text", "Thai"),
    ({"text": "今日は良い天気です"}, 422, "text", "kana"),
    ({"text": "hi", "emotion": "hapy"}, 422, "emotion", "happy, angry"),
    ({"text": "hi", "emotion_strength": 1.5}, 422, "emotion_strength", "0 to 1"),
    ({"text": "hi", "speed": 0.4}, 422, "speed", "0.5 to 2"),
    ({"text": "hi", "speed": 3}, 422, "speed", "0.5 to 2"),
    ({"text": "hi", "speaker_id": 99}, 422, "speaker_id", "0 to 9"),
    ({"text": "hi", "speaker_id": "../../etc/passwd"}, 422, "speaker_id", "f1"),
    ({"text": "hi", "format": "midi"}, 422, "format", "wav, mp3"),
    ({"text": "hi", "language": "la"}, 422, "language", "zh, yue"),
    ({"text": "hi", "emtion": "happy"}, 422, "emtion", "emtion"),
    ({"text": 5}, 422, "text", "text"),
    ({}, 422, "text", "text"),
]


@pytest.mark.parametrize(
    ("change", "param"),
    [({"input": "…"}, "input"), ({"voice": "nobody"}, "voice"), ({"response_format": "midi"}, "response_format")],
)
def test_openais_route_names_a_bad_field_as_its_callers_do(tts: RunningApp, change: dict[str, str], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused, sdk(tts) as client:
        client.audio.speech.create(**{"model": "tts-1", "voice": "alloy", "input": "hi"} | change)  # type: ignore[arg-type]

    assert refused.value.param == param


@pytest.mark.parametrize(("body", "status", "param", "said"), BAD_BODIES, ids=lambda value: str(value)[:40])
def test_a_bad_request_is_refused_by_name_with_the_limit(
    tts: RunningApp, body: dict[str, object], status: int, param: str, said: str
) -> None:
    answer = speak(tts, **body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param
    assert said in answer.json()["error"]["message"]


def test_a_body_that_is_not_json_or_far_too_large_is_refused(tts: RunningApp) -> None:
    with tts.client as client:
        headers = {"Content-Type": "application/json"}
        assert client.post("/synthesize", content=b"{nope", headers=headers).status_code == 422
        large = client.post("/synthesize", content=b'{"text": "' + b"x" * 3_000_000 + b'"}', headers=headers)
    assert large.status_code == 413
    assert "1000000 bytes" in large.json()["error"]["message"]


def test_lone_surrogates_and_control_characters_are_dropped_and_the_rest_is_spoken(tts: RunningApp) -> None:
    with tts.client as client:
        body = rb'{"text": "Hello \ud800 there\u0000, \u0007 friend."}'
        answer = client.post("/synthesize", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert 0.5 < float(answer.headers["x-audio-seconds"]) < 4


def test_one_endless_word_is_spoken_within_bounds(tts: RunningApp) -> None:
    answer = speak(tts, text="a" * 5_000, stream=False)
    assert answer.status_code == 200
    assert float(answer.headers["x-audio-seconds"]) < 900
