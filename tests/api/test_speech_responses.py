"""What an answer of speech says of itself, how it comes as events, and how it comes again. One server for all."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from tests.api.gated_server import Gated, gated_server
from tests.audio import loudness, read

HALF_SECOND = 22_050  # bytes of 16 bit samples at 22,050 Hz
RATE = 22_050


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated_server(tmp_path_factory.mktemp("gate")) as running:
        yield running


def speak(server: Gated, text: str, key: str | None = None, **body: object) -> httpx.Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    return server.client.post("/synthesize", json={"text": text, **body}, headers=headers)


def events_of(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n\n")
    return [json.loads(block.removeprefix("data: ")) for block in text.strip().split("\n\n")]


def usage(client: httpx.Client) -> dict[str, Any]:
    return client.get("/v1/usage").json()


def counter(server: Gated, name: str) -> float:
    lines = server.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"steadyvoice_{name}"))


def let_pass(server: Gated) -> None:
    with server.gate.accept() as waiting:
        waiting.recv()
        waiting.send("go on")


# --- what is said of it


def test_a_whole_answer_says_what_was_spoken(server: Gated) -> None:
    answer = speak(server, "Hello  there.\u200b How are you?")
    assert answer.headers["x-characters"] == str(len("Hello there. How are you?"))
    assert answer.headers["x-audio-seconds"] == "1.000"
    assert answer.headers["x-tokens"] == "50"
    assert answer.headers["x-speed-method"] == "native"
    assert not {"x-speech-defects", "x-speech-reduced", "x-cached"} & set(answer.headers)


def test_a_voice_with_one_pace_is_stretched_and_the_answer_says_so(server: Gated) -> None:
    for speed in (0.5, 2.0):
        answer = speak(server, "At another pace. And another sentence.", speed=speed)
        assert answer.headers["x-speed-method"] == "stretched"
        assert float(answer.headers["x-audio-seconds"]) == pytest.approx(1 / speed, rel=0.02)
        samples, rate = read(answer.content)
        assert len(samples) / rate == pytest.approx(1 / speed, rel=0.02)
    assert speak(server, "So near that nobody hears it.", speed=1.005).headers["x-speed-method"] == "native"


def test_defects_are_named_by_sentence_and_counted(server: Gated) -> None:
    before = [counter(server, name) for name in ("speech_defects_total", "speech_retries_total", "speech_reduced_total")]
    answer = speak(server, "Whole. This is cut. This is poor. Both: cut, poor.")
    assert answer.headers["x-speech-defects"] == "2:cut_off,4:cut_off"
    assert answer.headers["x-speech-reduced"] == "3,4"
    after = [counter(server, name) for name in ("speech_defects_total", "speech_retries_total", "speech_reduced_total")]
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 2, 2]


def test_a_pause_is_put_between_sentences_and_is_as_fast_as_the_speech(server: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.service, "spec", replace(server.service.spec, pause_s=0.2))
    answer = speak(server, "A pause after me. And one after me. Not after me.")
    samples, _ = read(answer.content)
    assert len(samples) == 3 * RATE // 2 + 2 * round(0.2 * RATE)
    assert loudness(samples[RATE // 2 + 10 : RATE // 2 + 4_400]) == 0
    times = server.client.get(f"/v1/speech/{answer.headers['x-speech-id']}/subtitles").text
    assert "00:00:00,700 --> 00:00:01,200\nAnd one after me." in times
    assert "00:00:01,400 --> 00:00:01,900\nNot after me." in times

    fast = speak(server, "A pause after me. Not after me.", speed=2)
    assert float(fast.headers["x-audio-seconds"]) == pytest.approx(0.25 + 0.1 + 0.25, abs=0.01)


# --- subtitles


def test_subtitles_show_a_word_and_not_the_hint_of_how_to_say_it(server: Gated) -> None:
    answer = speak(server, "我去<银行|YIN2 HANG2>。")

    assert server.client.get(f"/v1/speech/{answer.headers['x-speech-id']}/subtitles").text.endswith("\n我去银行。\n\n")


def test_subtitles_are_there_once_the_speech_is(server: Gated) -> None:
    with server.client.stream("POST", "/synthesize", json={"text": "One & one. The gate.", "stream": True}) as answer:
        url = f"/v1/speech/{answer.headers['x-speech-id']}/subtitles"
        early = server.client.get(url)
        assert early.status_code == 409
        assert early.headers["retry-after"] == "1"
        assert early.json()["error"]["code"] == "still_in_progress"
        let_pass(server)
        answer.read()
        # At once: whoever has heard the end finds the text.
        srt, vtt = server.client.get(url), server.client.get(url, params={"format": "vtt"})
    assert srt.headers["content-type"].startswith("application/x-subrip")
    assert srt.text == ("1\n00:00:00,000 --> 00:00:00,500\nOne & one.\n\n2\n00:00:00,500 --> 00:00:01,000\nThe gate.\n\n")
    assert vtt.headers["content-type"].startswith("text/vtt")
    assert vtt.text.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:00.500\nOne &amp; one.")


def test_of_an_unknown_or_failed_speech_there_are_no_subtitles(server: Gated) -> None:
    missing = server.client.get("/v1/speech/nobody/subtitles")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    failed = server.client.post("/v1/audio/speech", json={"input": "One more. Now fail.", "stream_format": "sse"})
    speech_id = failed.headers["x-speech-id"]
    assert server.client.get(f"/v1/speech/{speech_id}/subtitles").status_code == 404
    assert server.client.get(f"/v1/speech/{speech_id}/subtitles", params={"format": "txt"}).status_code == 422


# --- events


def test_events_carry_the_audio_and_end_with_the_usage(server: Gated) -> None:
    text = "One event. This is cut. poor event."
    body = {"input": text, "response_format": "wav", "stream_format": "sse"}
    answer = server.client.post("/v1/audio/speech", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-characters"] == str(len(text))
    *deltas, done = events_of(answer.text)
    assert len(deltas) >= 3
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    audio = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert len(audio) == 44 + 3 * HALF_SECOND
    assert done == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": len(text), "output_tokens": 75, "total_tokens": len(text) + 75},
        "audio_seconds": 1.5,
        "speech_id": answer.headers["x-speech-id"],
        "speed_method": "native",
        "defects": [{"sentence": 2, "defect": "cut_off"}],
        "reduced": [3],
    }


def test_the_first_event_leaves_before_the_second_sentence_is_spoken(server: Gated) -> None:
    body = {"input": "One is early. The gate.", "response_format": "pcm", "stream_format": "sse"}
    with server.client.stream("POST", "/v1/audio/speech", json=body) as answer:
        lines = answer.iter_lines()
        assert "speech.audio.delta" in next(lines)
        let_pass(server)
        assert "speech.audio.done" in [line for line in lines if line][-1]


def test_an_error_in_the_middle_is_the_last_event(server: Gated) -> None:
    answer = server.client.post("/v1/audio/speech", json={"input": "First this. Then fail.", "stream_format": "sse"})
    assert answer.status_code == 200
    *deltas, last = events_of(answer.text)
    assert deltas
    assert last["type"] == "error"
    assert last["error"]["code"] == "item_failed"


def test_an_error_at_the_beginning_is_a_status(server: Gated) -> None:
    answer = server.client.post("/v1/audio/speech", json={"input": "fail. Then this.", "stream_format": "sse"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "item_failed"


# --- again


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_key_gets_the_same_bytes_for_nothing(server: Gated, stream: bool) -> None:
    first = speak(server, "Once and again. And again.", key=f"again-{stream}", stream=stream, format="mp3")
    before, work = usage(server.client), server.service.engine.status().batches
    again = speak(server, "Once and again. And again.", key=f"again-{stream}", stream=stream, format="mp3")
    assert again.content == first.content
    assert "x-cached" not in first.headers
    assert again.headers["x-cached"] == "true"
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["x-speech-id"] == first.headers["x-speech-id"]
    assert usage(server.client) == before
    assert server.service.engine.status().batches == work


def test_events_come_again_too(server: Gated) -> None:
    body = {"input": "Events once. And again.", "stream_format": "sse"}
    first, again = (server.client.post("/v1/audio/speech", json=body, headers={"Idempotency-Key": "events"}) for _ in range(2))
    assert again.headers["x-cached"] == "true"
    assert again.headers["content-type"].startswith("text/event-stream")
    assert events_of(again.text) == events_of(first.text)


def test_a_key_belongs_to_one_body_on_one_route(server: Gated) -> None:
    assert speak(server, "Mine.", key="one body").status_code == 200
    for answer in (
        speak(server, "Yours.", key="one body"),
        server.client.post("/v1/audio/speech", json={"input": "Mine."}, headers={"Idempotency-Key": "one body"}),
    ):
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "idempotency_key_reused"


def test_a_key_belongs_to_one_caller(server: Gated) -> None:
    speak(server, "To me.", key="caller", stream=True)
    with httpx.Client(
        base_url=server.client.base_url, transport=httpx.HTTPTransport(local_address="127.0.0.2"), timeout=60
    ) as other:
        answer = other.post("/synthesize", json={"text": "To another."}, headers={"Idempotency-Key": "caller"})
    assert answer.status_code == 200
    assert "x-cached" not in answer.headers


def test_while_the_first_is_at_work_the_key_is_refused(server: Gated) -> None:
    answers: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: answers.append(speak(server, "The gate holds it.", key="at work")))
    thread.start()
    with server.gate.accept() as waiting:
        waiting.recv()
        early = speak(server, "The gate holds it.", key="at work")
        other = speak(server, "Something else.", key="at work")
        waiting.send("go on")
    thread.join()
    assert (early.status_code, early.headers["retry-after"]) == (409, "1")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert speak(server, "The gate holds it.", key="at work").content == answers[0].content


def test_a_request_that_failed_leaves_nothing_under_its_key(server: Gated) -> None:
    for _ in range(2):
        assert speak(server, "fail at once.", key="failed").status_code == 500
    body = {"input": "First. Then fail.", "stream_format": "sse"}
    for _ in range(2):
        answer = server.client.post("/v1/audio/speech", json=body, headers={"Idempotency-Key": "failed events"})
        assert "x-cached" not in answer.headers
    assert speak(server, "Another try.", key="failed").status_code == 200, "the key is free for another body"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", b"\xc3\xa9"])
def test_a_malformed_key_is_refused(server: Gated, key: str | bytes) -> None:
    answer = server.client.post("/synthesize", json={"text": "Hello."}, headers={"Idempotency-Key": key})  # type: ignore[dict-item]
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "Idempotency-Key"
    assert "255" in answer.json()["error"]["message"]


def test_the_same_request_is_answered_from_what_is_kept(server: Gated) -> None:
    first, again = (speak(server, "The same request.", service_class=name) for name in ("interactive", "batch"))
    other = speak(server, "The same request.", format="flac")
    assert again.headers["x-cached"] == "true"
    assert again.content == first.content
    assert again.headers["x-inference-seconds"] == "0.0000"
    assert again.headers["x-speech-id"] != first.headers["x-speech-id"]
    assert "The same request." in server.client.get(f"/v1/speech/{again.headers['x-speech-id']}/subtitles").text
    assert "x-cached" not in other.headers


def test_what_may_sound_different_another_time_is_not_kept(server: Gated, monkeypatch: pytest.MonkeyPatch) -> None:
    def comes_again(text: str, **body: object) -> bool:
        speak(server, text, **body)
        return "x-cached" in speak(server, text, **body).headers

    assert not comes_again("This is cut.")
    assert not comes_again("This is poor.")
    monkeypatch.setattr(server.service, "spec", replace(server.service.spec, seeded=True))
    assert not comes_again("By luck.")
    assert comes_again("By luck.", seed=7)
    assert "x-cached" not in speak(server, "By luck.", seed=8).headers


# --- usage


def test_usage_is_what_was_spoken_and_the_callers_own(server: Gated) -> None:
    with httpx.Client(
        base_url=server.client.base_url, transport=httpx.HTTPTransport(local_address="127.0.0.3"), timeout=60
    ) as caller:
        assert usage(caller) == {"object": "usage", "requests": 0, "characters": 0, "audio_seconds": 0.0, "tokens": 0}
        caller.post("/synthesize", json={"text": "My own words. And some more."})
        caller.post("/synthesize", json={"text": "fail from the start."})
        caller.post("/v1/audio/speech", json={"input": "Half of it. Then fail.", "stream_format": "sse"})
        characters = len("My own words. And some more.") + len("Half of it. ")
        mine = usage(caller)
    assert mine == {"object": "usage", "requests": 2, "characters": characters, "audio_seconds": 1.5, "tokens": 75}
    assert usage(server.client)["characters"] > characters
    assert counter(server, "speech_characters_total") >= characters


def test_a_listener_who_leaves_is_counted_what_was_spoken(server: Gated) -> None:
    before = usage(server.client)
    with server.client.stream("POST", "/synthesize", json={"text": "I leave now. The gate.", "stream": True}) as answer:
        pieces = answer.iter_raw()
        next(pieces)
        waiting = server.gate.accept()
        waiting.recv()
    with waiting:
        assert server.service.admission.limit.wait_idle(30)
        waiting.send("go on")
    after = usage(server.client)
    assert after["requests"] - before["requests"] == 1
    assert after["characters"] - before["characters"] == len("I leave now. ")
    assert np.isclose(after["audio_seconds"] - before["audio_seconds"], 0.5)
