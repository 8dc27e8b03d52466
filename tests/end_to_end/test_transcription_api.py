"""POST /v1/audio/transcriptions from outside: plain HTTP and OpenAI's own SDK, the real app and the real recogniser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jiwer
import numpy as np
import openai
import pytest

from steadyvoice.testing.running_apps import CLIPS, RunningApp
from tests.audio import FORMATS, as_format, clip, wav_bytes

MAX_WORD_ERRORS = 0.40
ROUTE = "/v1/audio/transcriptions"


def post(app: RunningApp, name: str, data: bytes, **fields: str):
    with app.client as client:
        return client.post(ROUTE, files={"file": (name, data)}, data=fields)


def sdk(app: RunningApp) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)


@pytest.mark.parametrize("path", CLIPS, ids=lambda path: path.stem)
def test_human_speech_is_recognised_over_http(asr: RunningApp, path: Path) -> None:
    answer = post(asr, path.name, path.read_bytes())
    assert answer.status_code == 200
    assert jiwer.wer(path.with_suffix(".txt").read_text(), answer.json()["text"]) <= MAX_WORD_ERRORS


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_format_gives_nearly_the_same_words(asr: RunningApp, name: str) -> None:
    references, spoken, answers = [], [], []
    for path in CLIPS:
        references.append(path.with_suffix(".txt").read_text())
        spoken.append(post(asr, path.name, path.read_bytes()).json()["text"])
        answer = post(asr, f"recording.{name}", as_format(clip(path), name))
        assert answer.status_code == 200, answer.text
        answers.append(answer.json()["text"])
    assert jiwer.wer(spoken, answers) <= 0.3
    assert jiwer.wer(references, answers) <= MAX_WORD_ERRORS


def spoken_in(subtitles: str) -> str:
    """The text of all cues."""
    lines = [line for line in subtitles.splitlines() if line.strip()]
    return " ".join(line for line in lines if "-->" not in line and line != "WEBVTT" and not line.isdigit())


def test_all_five_response_formats_carry_the_same_text(asr: RunningApp) -> None:
    data = CLIPS[0].read_bytes()
    answers = {name: post(asr, "a.wav", data, response_format=name) for name in ("json", "text", "srt", "vtt", "verbose_json")}
    text = answers["json"].json()["text"]
    assert answers["text"].text.strip() == text
    assert re.match(r"1\n00:00:00,\d{3} --> 00:00:0\d,\d{3}\n", answers["srt"].text)
    assert spoken_in(answers["srt"].text) == text
    assert answers["vtt"].text.startswith("WEBVTT\n\n00:00:00.")
    assert spoken_in(answers["vtt"].text) == text
    verbose = answers["verbose_json"].json()
    assert verbose["text"] == verbose["rich_text"] == text
    assert verbose["duration"] == pytest.approx(7.1, abs=0.01)
    assert verbose["usage"]["tokens"] == 355
    assert verbose["engine"]["name"] == "pocketsphinx"
    assert verbose["segments"][0]["language"] == "en"
    assert {"emotion", "events"} <= verbose["segments"][0].keys()
    assert answers["json"].headers["x-audio-seconds"] == "7.100"
    assert answers["json"].headers["x-engine"].startswith("pocketsphinx/")


def test_word_times_increase_and_lie_within_the_audio(asr: RunningApp) -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    words = post(asr, "a.wav", CLIPS[1].read_bytes(), **fields).json()["words"]
    times = [time for word in words for time in (word["start"], word["end"])]
    assert len(words) > 8
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 5.31


def test_the_openai_sdk_transcribes(asr: RunningApp) -> None:
    with sdk(asr) as client, CLIPS[2].open("rb") as file:
        answer = client.audio.transcriptions.create(file=file, model="whisper-1")
    assert jiwer.wer(CLIPS[2].with_suffix(".txt").read_text(), answer.text) <= MAX_WORD_ERRORS


def test_the_openai_sdk_reads_verbose_answers_with_words_and_segments(asr: RunningApp) -> None:
    with sdk(asr) as client, CLIPS[2].open("rb") as file:
        answer = client.audio.transcriptions.create(
            file=file, model="whisper-1", response_format="verbose_json", timestamp_granularities=["word", "segment"]
        )
    assert answer.duration == pytest.approx(3.29, abs=0.01)
    assert answer.words is not None
    assert answer.segments is not None
    assert " ".join(word.word for word in answer.words) == answer.text
    assert answer.segments[0].end <= 3.29


def test_the_openai_sdk_reads_subtitles_and_text(asr: RunningApp) -> None:
    with sdk(asr) as client:
        for response_format in ("srt", "vtt", "text"):
            with CLIPS[2].open("rb") as file:
                answer = client.audio.transcriptions.create(file=file, model="whisper-1", response_format=response_format)
            assert "himself" in answer or "itself" in answer


def test_the_openai_sdk_streams_segment_by_segment(asr: RunningApp) -> None:
    pause = np.zeros(3 * 16_000, np.float32)
    long = np.concatenate([part for path in CLIPS for part in (clip(path), pause)])
    with sdk(asr) as client:
        stream = client.audio.transcriptions.create(file=("long.wav", wav_bytes(long)), model="whisper-1", stream=True)
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert len(deltas) == 3
    assert events[-1].type == "transcript.text.done"
    assert "".join(deltas) == events[-1].text


def test_silence_is_an_empty_transcript_that_says_no_speech(asr: RunningApp) -> None:
    silence = wav_bytes(np.zeros(5 * 16_000, np.float32))
    answer = post(asr, "a.wav", silence, response_format="verbose_json")
    assert answer.status_code == 200
    assert answer.json()["text"] == ""
    assert answer.json()["no_speech"] is True
    assert answer.json()["segments"] == []
    assert post(asr, "a.wav", silence, response_format="srt").text == ""


def test_the_same_file_a_second_time_comes_from_the_cache(asr: RunningApp) -> None:
    data = as_format(clip(CLIPS[2])[:40_000], "flac")
    first = post(asr, "a.flac", data, response_format="verbose_json").json()
    second = post(asr, "b.flac", data, response_format="verbose_json").json()
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["text"] == second["text"]
    other = post(asr, "a.flac", data, response_format="verbose_json", merge_length_s="3").json()
    assert other["cached"] is False, "other options are another result"


BAD_FIELDS = [
    ({"language": "klingon"}, "language", "zh"),
    ({"language": "zh"}, "language", "auto, en"),
    ({"response_format": "docx"}, "response_format", "verbose_json"),
    ({"stream": "perhaps"}, "stream", "true"),
    ({"merge_length_s": "-1"}, "merge_length_s", "30"),
    ({"merge_length_s": "nan"}, "merge_length_s", "30"),
    ({"merge_length_s": "soon"}, "merge_length_s", "number"),
    ({"service_class": "royal"}, "service_class", "interactive"),
    ({"timestamp_granularities[]": "letter", "response_format": "verbose_json"}, "timestamp_granularities", "word"),
    ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "verbose_json"),
    ({"temperature": "1.5"}, "temperature", "less than or equal to 1"),
    ({"prompt": "p" * 4_001}, "prompt", "4000 characters"),
    ({"include[]": "logprobs"}, "include", "pocketsphinx gives no log probabilities"),
    ({"include[]": "item"}, "include", "logprobs"),
    ({"chunking_strategy": "manual"}, "chunking_strategy", "auto"),
    ({"chunking_strategy": '{"type": "server_vad", "threshold": 2}'}, "chunking_strategy", "threshold: Input should be less"),
    ({"chunking_strategy": '{"type": "server_vad", "length": 2}'}, "chunking_strategy", "length: "),
    ({"chunking_strategy": "{nope"}, "chunking_strategy", "auto"),
    ({"known_speaker_names[]": "ann"}, "known_speaker_names[]", "not told apart"),
    ({"hotwords": "amiable"}, "hotwords", "no such field"),
]


@pytest.mark.parametrize(("fields", "param", "said"), BAD_FIELDS, ids=lambda value: str(value)[:40])
def test_a_bad_field_is_refused_by_name_with_the_choices(asr: RunningApp, fields: dict[str, str], param: str, said: str) -> None:
    answer = post(asr, "a.wav", CLIPS[2].read_bytes(), **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert said in error["message"]
    assert error["type"] == "invalid_request_error"


def nan_wav() -> bytes:
    import io

    import soundfile

    out = io.BytesIO()
    soundfile.write(out, np.full(16_000, np.nan, np.float32), 16_000, format="WAV", subtype="FLOAT")
    return out.getvalue()


BAD_FILES = {
    "empty.wav": (b"", {400}),
    "thirty.wav": (b"RIFF\x16\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00\x80>", {400, 415}),
    "text.wav": (b"This is not audio at all, but a letter to my aunt. " * 50, {415}),
    "zero.wav": (wav_bytes(np.zeros(0, np.float32)), {400}),
    "nan.wav": (nan_wav(), {400}),
    "list.m3u8": (b"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", {415}),
    "x.jsonl": (b'{"key": "a", "source": "/etc/passwd"}\n', {415}),
    "concat.txt": (b"ffconcat version 1.0\nfile /etc/passwd\n", {415}),
    "truncated.m4a": (as_format(clip(CLIPS[2]), "m4a")[:2_000], {400, 415}),
    "truncated.webm": (as_format(clip(CLIPS[2]), "webm")[:200], {400, 415}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_a_clear_refusal(asr: RunningApp, name: str) -> None:
    data, statuses = BAD_FILES[name]
    answer = post(asr, name, data)
    assert answer.status_code in statuses, answer.text
    assert len(answer.json()["error"]["message"]) > 10
    assert "Traceback" not in answer.text
    assert "/" not in answer.json()["error"]["message"].replace("wav/", "")


def test_a_form_without_a_file_is_refused(asr: RunningApp) -> None:
    with asr.client as client:
        for answer in (client.post(ROUTE, data={"model": "x"}), client.post(ROUTE, files={"other": b"x"}), client.post(ROUTE)):
            assert answer.status_code == 400
            assert answer.json()["error"]["param"] == "file"


def test_a_path_or_url_in_the_file_field_is_not_opened(asr: RunningApp) -> None:
    with asr.client as client:
        for value in ("/etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/a.wav", str(CLIPS[0])):
            assert client.post(ROUTE, data={"file": value}).status_code == 400


def test_every_answer_carries_a_request_id_and_takes_the_callers(asr: RunningApp) -> None:
    with asr.client as client:
        assert len(client.get("/ready").headers["x-request-id"]) == 16
        assert client.get("/ready", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        odd = client.get("/ready", headers={"X-Request-Id": "a" * 100})
        assert odd.headers["x-request-id"] != "a" * 100


def test_unknown_routes_and_wrong_methods_answer_in_the_same_error_shape(asr: RunningApp) -> None:
    with asr.client as client:
        unknown = client.get("/v1/audio/unknown")
        wrong = client.get(ROUTE)
        assert client.head("/ready").status_code == 200
    assert unknown.status_code == 404
    assert set(unknown.json()["error"]) == {"message", "type", "param", "code"}
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert "GET is not allowed here" in wrong.json()["error"]["message"]


def test_models_health_metrics_and_memory_answer(asr: RunningApp) -> None:
    post(asr, "a.wav", CLIPS[2].read_bytes())
    with asr.client as client:
        model = client.get("/v1/models").json()["data"][0]
        assert (model["id"], model["object"], model["embedded"]) == ("pocketsphinx", "model", True)
        assert "English only" in model["note"]
        assert client.get("/live").json() == {"status": "live"}
        assert client.get("/ready").json() == {"status": "ready", "engine": "pocketsphinx", "model": "ready"}
        steps = {(sample["process"], sample["step"]) for sample in client.get("/memory").json()["samples"]}
        metrics = client.get("/metrics").text
    app_steps = {("app", step) for step in ("decode", "segment", "queue", "post-process")}
    assert steps >= app_steps | {("worker", "load"), ("worker", "batch")}
    assert 'steadyvoice_memory_bytes{kind="rss",process="worker"}' in metrics
    assert 'steadyvoice_requests_total{route="/v1/audio/transcriptions",status="200"}' in metrics
    assert "steadyvoice_engine_ready 1.0" in metrics


def test_no_word_of_a_caller_reaches_the_log(asr: RunningApp) -> None:
    text = post(asr, "a-private-name.wav", CLIPS[2].read_bytes()).json()["text"]
    log = "".join(asr.log)
    assert "amiable" in text
    assert "amiable" not in log
    assert "a-private-name" not in log


def test_a_streamed_answer_is_valid_server_sent_events(asr: RunningApp) -> None:
    with (
        asr.client as client,
        client.stream("POST", ROUTE, files={"file": ("a.wav", CLIPS[2].read_bytes())}, data={"stream": "true"}) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        blocks = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert [json.loads(block)["type"] for block in blocks][-1] == "transcript.text.done"
