"""What has left the server while its engine is still at work. The engine is held still by the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient

from app_tts import build_app
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.protocol import MemoryPlan
from steadyvoice.provision.service_factory import create_service
from steadyvoice.settings import Settings
from tests.api.gated_server import Gated, gated_server

TEN = "One. Two. Three. Four. Five. gate six. Seven. Eight. Nine. Ten."
HALF_SECOND = 22_050  # bytes of 16 bit samples at 22,050 Hz


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with gated_server(tmp_path_factory.mktemp("gate")) as running:
        yield running


def test_first_audio_leaves_before_the_whole_of_a_ten_sentence_text_is_done(server: Gated) -> None:
    with server.client.stream("POST", "/synthesize", json={"text": TEN, "stream": True}) as answer:
        pieces = answer.iter_raw()
        heard = 0
        while heard < HALF_SECOND:  # audio of the first sentence at least
            heard += len(next(pieces))
        with server.gate.accept() as waiting:  # the engine has not begun the sixth sentence
            waiting.recv()
            assert server.service.engine.status().jobs == 1
            waiting.send("go on")
        rest = sum(map(len, pieces))
    assert heard + rest == 44 + 10 * HALF_SECOND


def test_openais_route_streams_too(server: Gated) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": TEN, "response_format": "wav"}
    with server.client.stream("POST", "/v1/audio/speech", json=body) as answer:
        pieces = answer.iter_raw()
        assert len(next(pieces)) > 44
        with server.gate.accept() as waiting:
            waiting.recv()
            waiting.send("go on")
        assert sum(map(len, pieces)) > 9 * HALF_SECOND - 44


def test_a_listener_who_leaves_in_the_middle_stops_the_work(server: Gated) -> None:
    with server.client.stream("POST", "/synthesize", json={"text": TEN + " Eleven." * 40, "stream": True}) as answer:
        pieces = answer.iter_raw()  # held: letting go of it would hang up
        next(pieces)
        waiting = server.gate.accept()
        waiting.recv()
    with waiting:
        assert server.service.admission.limit.wait_idle(30), "the place is free although the engine is still held"
        waiting.send("go on")
    assert server.client.post("/synthesize", json={"text": "Hello."}).status_code == 200
    assert server.service.engine.status().jobs == 0


def test_a_caller_who_hangs_up_before_the_answer_frees_the_place(server: Gated) -> None:
    with pytest.raises(httpx.ReadTimeout):
        server.client.post("/synthesize", json={"text": "The gate."}, timeout=httpx.Timeout(60, read=1.0))
    assert server.service.admission.limit.wait_idle(30)
    with server.gate.accept() as waiting:
        waiting.recv()
        waiting.send("go on")


def test_over_the_capacity_everybody_else_gets_429_and_the_page_is_held_to_it_too(tmp_path: Path) -> None:
    with gated_server(tmp_path, queue_size=1, concurrency=1) as server:
        held = {"json": {"text": "gate"}}
        threads = [threading.Thread(target=server.client.post, args=("/synthesize",), kwargs=held) for _ in range(2)]
        for thread in threads:
            thread.start()
        with server.gate.accept() as first:
            first.recv()
            while server.service.admission.limit.in_flight < 2:
                threads[1].join(0.01)
            refused = server.client.post("/synthesize", json={"text": "Hello."})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "1 at work, 1 waiting" in refused.json()["error"]["message"]
            data = ["Hello.", "auto", "neutral", 0.6, "0", 1.0, "wav"]
            event = server.client.post("/gradio_api/call/synthesize", json={"data": data}).json()["event_id"]
            assert "event: error" in server.client.get(f"/gradio_api/call/synthesize/{event}").text
            first.send("go on")
        with server.gate.accept() as second:
            second.recv()
            second.send("go on")
        for thread in threads:
            thread.join()


def test_an_engine_that_takes_several_texts_at_once_gets_those_of_several_callers(tmp_path: Path) -> None:
    with gated_server(tmp_path, concurrency=8) as server, ThreadPoolExecutor(4) as pool:

        def speak(text: str) -> Future[httpx.Response]:
            return pool.submit(server.client.post, "/synthesize", json={"text": text})

        first = speak("The gate.")
        with server.gate.accept() as waiting:
            waiting.recv()
            others = [speak(f"Sentence {number}.") for number in range(3)]
            while server.service.engine.status().jobs < 4:
                wait([first], 0.02)
            waiting.send("go on")
        assert [speech.result().status_code for speech in (first, *others)] == [200] * 4
        assert server.service.engine.status().largest_batch == 3


def test_a_request_over_its_time_limit_gets_504(tmp_path: Path) -> None:
    with gated_server(tmp_path, request_timeout_s=0.5) as server:
        server.service.engine.load().result(30)  # or the time may be over before the sentence has come to the gate
        answer = server.client.post("/synthesize", json={"text": "The gate."})
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
        with server.gate.accept() as waiting:
            waiting.recv()
            waiting.send("go on")


def test_a_model_that_cannot_be_loaded_is_503_with_the_reason_and_no_path(tmp_path: Path) -> None:
    service = create_service(Settings(), "tts", WorkerSpec("tests.no_such_module:Model"))
    with TestClient(build_app(service.settings, service), base_url="http://127.0.0.1") as client:
        answer = client.post("/synthesize", json={"text": "Hello."})
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        assert "could not be loaded: ModuleNotFoundError" in answer.json()["error"]["message"]
        assert str(tmp_path.anchor + "work") not in answer.text


def test_a_body_without_declared_length_is_refused_with_413_when_it_grows_too_large(server: Gated) -> None:
    def large() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(30):
            yield b"x" * 100_000
        yield b'"}'

    answer = server.client.post("/synthesize", content=large(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert "1000000 bytes" in answer.json()["error"]["message"]


@pytest.mark.parametrize(("name", "value"), [("format", "x" * 500_000), ("x" * 500_000, 1)])
def test_a_refusal_is_short_however_long_what_it_names_is(server: Gated, name: str, value: object) -> None:
    answer = server.client.post("/synthesize", json={"text": "Hello.", name: value})

    assert answer.status_code == 422
    assert len(answer.content) < 1_000


def test_a_stream_that_fails_in_the_middle_is_cut_and_does_not_look_whole(
    server: Gated, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"text": "One. Two. The gate. fail here. Five.", "stream": True}
    heard = 0

    def read() -> None:
        nonlocal heard
        with server.client.stream("POST", "/synthesize", json=body) as answer:
            pieces = answer.iter_raw()
            heard += len(next(pieces))  # the status has left: there is no way back to one that says 500
            assert answer.status_code == 200
            with server.gate.accept() as waiting:
                waiting.recv()
                waiting.send("go on")
            for piece in pieces:
                heard += len(piece)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete"):
        read()
    assert heard == 44 + 3 * HALF_SECOND
    assert server.service.admission.limit.wait_idle(30)
    assert "failed in the middle and is cut: item_failed" in caplog.text
    assert "Traceback" not in caplog.text, "it is no bug of ours"


@pytest.mark.parametrize(("stream", "streamed"), [(None, True), (False, False), (True, True)])
def test_what_will_be_long_is_streamed_unless_the_caller_says_otherwise(
    server: Gated, stream: bool | None, streamed: bool
) -> None:
    answer = server.client.post("/synthesize", json={"text": "Nobody can wait for so long. " * 40, "stream": stream})
    assert ("x-audio-seconds" in answer.headers) is not streamed
    assert ("content-length" in answer.headers) is not streamed
    assert len(answer.content) == 44 + 40 * HALF_SECOND


def test_what_will_be_short_is_whole(server: Gated) -> None:
    assert "content-length" in server.client.post("/synthesize", json={"text": TEN.replace("gate", "")}).headers


def test_the_engine_is_told_how_long_a_sentence_should_be(server: Gated) -> None:
    answer = server.client.post("/synthesize", json={"text": "Hello. Tell me, please.", "speed": 2})
    assert answer.status_code == 422
    seconds = len("Tell me, please.") * 0.4 * 0.22
    assert f"expected {seconds:.2f} s" in answer.json()["error"]["message"]


def test_a_text_is_spoken_the_second_time_too_where_memory_is_for_less_than_its_shortest_pieces(tmp_path: Path) -> None:
    with gated_server(tmp_path, memory=MemoryPlan(padded_s=30.0, limit=300_000_000)) as server:
        body = {"text": "今天天气很好我们去公园散步吧" * 2}
        before = server.client.post("/synthesize", json=body)  # the model is loaded for it: what fits is not known yet
        assert 1.0 < server.service.engine.status().longest_s < 3.0
        after = server.client.post("/synthesize", json=body)

    assert (before.status_code, after.status_code) == (200, 200), after.text
