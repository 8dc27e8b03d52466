"""Jobs that a client of Gradio's cancels, and what such clients are told when something is wrong with a job."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.client import Job
from gradio_client.utils import Status

from tests.api.gated_server import Gated, gated_server

SCRIPT = Path(__file__).with_name("gradio_client.mjs")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("page")))
        with gated_server(tmp_path_factory.mktemp("gate"), concurrency=1) as running:
            yield running


@pytest.fixture(scope="module")
def client(server: Gated) -> Client:
    return Client(str(server.client.base_url), verbose=False)


def wait_until(job: Job, status: Status) -> None:
    while job.status().code is not status and not job.done():
        wait([job.future], 0.02)


def submit(client: Client, text: str) -> Job:
    return client.submit(text, api_name="/synthesize")


def test_a_job_that_waits_can_be_cancelled_and_its_neighbour_goes_on(server: Gated, client: Client) -> None:
    first = submit(client, "The gate.")
    with server.gate.accept() as waiting:
        waiting.recv()
        second = submit(client, "Hello.")
        wait_until(second, Status.IN_QUEUE)
        assert second.cancel()
        with pytest.raises(CancelledError):
            second.result(timeout=30)
        assert second.status().code is Status.CANCELLED
        assert not first.done()
        waiting.send("go on")
    assert first.result(timeout=30)[1]["audio_seconds"] == 0.5
    assert submit(client, "Hello again.").result(timeout=30)


def test_a_job_at_work_can_be_cancelled_and_frees_its_place(server: Gated, client: Client) -> None:
    first = submit(client, "The gate.")
    with server.gate.accept() as waiting:
        waiting.recv()
        second = submit(client, "Hello.")
        wait_until(second, Status.IN_QUEUE)
        assert first.cancel()
        with pytest.raises(CancelledError):
            first.result(timeout=30)
        wait_until(second, Status.PROCESSING)
        waiting.send("go on")
    assert second.result(timeout=30)[1]["audio_seconds"] == 0.5
    assert server.service.admission.limit.wait_idle(30)


def test_a_stranger_cancels_nothing(server: Gated, client: Client) -> None:
    job = submit(client, "The gate.")
    with server.gate.accept() as waiting:
        waiting.recv()
        body = {"event_id": job.communicator.event_id, "session_hash": "another", "fn_index": 0}
        assert server.client.post("/gradio_api/cancel", json=body).status_code == 200
        waiting.send("go on")
    assert job.result(timeout=30)


@contextmanager
def node(server: Gated, what: str) -> Iterator[subprocess.Popen[str]]:
    command = ["node", str(SCRIPT), str(server.client.base_url).rstrip("/"), what]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stderr is not None
        assert (process.wait(60), process.stderr.read()) == (0, "")


def lines(process: subprocess.Popen[str]) -> Iterator[Any]:
    assert process.stdout is not None
    return map(json.loads, process.stdout)


def test_gradios_javascript_client_cancels_as_well(server: Gated) -> None:
    with node(server, "cancel") as process:
        told = lines(process)
        with server.gate.accept() as waiting:
            waiting.recv()
            assert next(told)["second"][-1] == {"stage": "complete", "message": None}
            waiting.send("go on")
        assert next(told)["first"][-1]["stage"] == "complete"
        assert next(told)["third"][-1]["stage"] == "complete"
        with server.gate.accept() as waiting:
            waiting.recv()
            print("cancel", file=process.stdin, flush=True)
            assert next(told)["running"][-1] == {"stage": "complete", "message": None}
            waiting.send("go on")


def test_gradios_javascript_client_is_told_what_is_wrong(server: Gated) -> None:
    with node(server, "errors") as process:
        told = list(lines(process))
    assert {each["stage"] for each in told} == {"error"}
    speed, language, emotion, vector = (each["message"] for each in told)
    assert speed == "speed: Input should be a valid number, unable to parse string as a number"
    assert language == "language: Input should be a valid string"
    assert emotion.startswith("emotion 'furious' is unknown")
    assert vector == "emotion_vector takes no JSON object and no file"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("text", None), ("text", 7), ("text", ["Hello."]), ("language", None), ("language", {"a": 1}), ("emotion", None)),
        *(("emotion_strength", "strong"), ("speed", 10**400), ("speed", None), ("speed", [1])),
        *(("speaker_id", [1]), ("speaker_id", 1.5), ("format", None), ("format", 3), ("emotion_vector", "happy")),
        *(("emotion_voice", 1.5), ("emotion_text", 7), ("seed", "seven"), ("seed", 1.5), ("seed", 10**30), ("seed", -1)),
    ],
)
def test_a_value_of_the_wrong_type_is_told_with_its_name(client: Client, name: str, value: Any) -> None:
    with pytest.raises(Exception, match=rf"^{name}\b"):
        client.predict(**({"text": "Hello."} | {name: value}), api_name="/synthesize")


def test_a_number_that_json_does_not_have_is_told_too(server: Gated) -> None:
    body = b'{"data": ["Hello.", "auto", "neutral", 0.6, "0", NaN, "wav", null, null, null, null]}'
    event = server.client.post("/gradio_api/call/synthesize", content=body, headers={"Content-Type": "application/json"}).json()
    answer = server.client.get(f"/gradio_api/call/synthesize/{event['event_id']}").text
    assert "speed is nan; allowed: 0.5 to 2" in answer
