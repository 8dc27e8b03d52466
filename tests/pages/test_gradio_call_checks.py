"""Clients that misuse the page's API are told so, and leave no traceback in the log."""

from __future__ import annotations

import gc
import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio.state_holder import StateHolder

from steadyvoice.pages import mount
from tests.api.gated_server import gated_server

API = "/gradio_api"
SESSIONS = 5
SYNTHESIZE = {"text": "Hello.", "speaker_id": "0"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mount, "MAX_SESSIONS", SESSIONS)
        with gated_server(tmp_path_factory.mktemp("gate")) as running:
            yield running.client


@pytest.fixture(autouse=True)
def _no_traceback(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.INFO):
        yield
    assert not [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR]


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["message"]


@pytest.mark.parametrize("way", ["run", "call", "call/v2"])
@pytest.mark.parametrize("name", ["nobody", "look", "upload", "%00"])
def test_an_endpoint_that_does_not_exist_or_is_private_is_not_found(client: httpx.Client, way: str, name: str) -> None:
    status, code, message = error_of(client.post(f"{API}/{way}/{name}", json={"data": []}))

    assert (status, code) == (404, "not_found")
    assert "synthesize" in message


@pytest.mark.parametrize("way", ["queue/join", "run/predict"])
@pytest.mark.parametrize("number", [999, -1])
def test_an_endpoint_of_a_wrong_number_is_not_found(client: httpx.Client, way: str, number: int) -> None:
    status, code, message = error_of(client.post(f"{API}/{way}", json={"data": [], "fn_index": number, "session_hash": "a"}))

    assert (status, code) == (404, "not_found")
    assert str(number) in message


@pytest.mark.parametrize("way", ["queue/join", "run/predict", "call/synthesize"])
@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", "body"),
        (b"[1]", "body"),
        (b"\xff", "body"),
        (b'{"data": ' + b"[" * 100_000, "body"),
        (b'{"data": ["\\ud800"]}', "body"),
        (b'{"data": {}}', "data"),
        (b"{}", "data"),
        (b'{"data": [], "fn_index": 1e999}', "fn_index"),
        (b'{"data": [], "session_hash": ""}', "session_hash"),
        (b'{"data": [], "session_hash": "' + b"a" * 65 + b'"}', "session_hash"),
    ],
)
def test_a_body_that_is_no_call_is_told_why(client: httpx.Client, way: str, body: bytes, param: str) -> None:
    answer = client.post(f"{API}/{way}", content=body, headers={"Content-Type": "application/json"})

    assert error_of(answer)[:2] == (422, "invalid_value")
    assert answer.json()["error"]["param"] == param


def test_a_call_of_the_queue_names_its_endpoint(client: httpx.Client) -> None:
    status, code, message = error_of(client.post(f"{API}/queue/join", json={"data": [], "session_hash": "a"}))

    assert (status, code, message) == (422, "invalid_value", "fn_index is missing")


@pytest.mark.parametrize("body", [{"data": []}, {"text": "a", "nonsense": 1}, {}])
def test_arguments_that_an_endpoint_does_not_have_are_told(client: httpx.Client, body: dict[str, Any]) -> None:
    status, code, message = error_of(client.post(f"{API}/call/v2/synthesize", json=body))

    assert (status, code) == (422, "invalid_value")
    assert "emotion_strength" in message


def test_an_endpoint_is_called_by_values_and_by_names(client: httpx.Client) -> None:
    values = ["Hello.", "auto", "neutral", 0.6, "0", 1.0, "wav", None, None, None, None]
    for path, body in (("call/synthesize", {"data": values}), ("call/v2/synthesize", SYNTHESIZE)):
        event = client.post(f"{API}/{path}", json=body).json()["event_id"]
        assert "event: complete" in client.get(f"{API}/{path}/{event}").text


@pytest.mark.parametrize("path", ["queue/data?session_hash=nobodys", "call/synthesize/nobodys", "call/v2/synthesize/nobodys"])
def test_a_stream_of_a_session_that_does_not_exist_says_so_and_ends(client: httpx.Client, path: str) -> None:
    answer = client.get(f"{API}/{path}")

    assert answer.status_code == 200
    assert "404" in answer.text


@pytest.mark.parametrize("place", ["assets", "static"])
@pytest.mark.parametrize("path", ["a" * 5_000, "a/" * 3_000, "中" * 100])
def test_a_name_that_no_file_can_have_is_not_found(client: httpx.Client, place: str, path: str) -> None:
    assert client.get(f"/{place}/{path}").status_code in (403, 404)


@pytest.mark.parametrize("path", ["queue/join", "run/predict", "call/synthesize", "call/v2/synthesize", "reset"])
def test_a_caller_that_goes_away_within_a_body_is_no_error(client: httpx.Client, path: str) -> None:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        lines = (f"POST {API}/{path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 100")
        connection.sendall("\r\n".join((*lines, "", "{")).encode())

    assert client.get("/live").status_code == 200  # the log is looked at afterwards


def test_a_body_that_grows_too_large_is_refused_as_such(client: httpx.Client) -> None:
    def grow() -> Iterator[bytes]:
        yield b'{"data": ['
        for _ in range(20):
            yield b"[]," * 20_000

    answer = client.post(f"{API}/queue/join", content=grow(), headers={"Content-Type": "application/json"})

    assert error_of(answer)[:2] == (413, "too_large")


def test_the_page_calls_its_private_endpoints_by_number(client: httpx.Client, tmp_path: Path) -> None:
    endpoints = client.get("/config").json()["dependencies"]
    number = next(endpoint["id"] for endpoint in endpoints if endpoint["api_name"] == "look")

    answer = client.post(f"{API}/run/predict", json={"data": [], "fn_index": number, "session_hash": "a"})

    assert (answer.status_code, len(answer.json()["data"])) == (200, 1)


def test_a_value_that_an_input_does_not_offer_is_told_to_the_client_alone(
    client: httpx.Client, capfd: pytest.CaptureFixture[str]
) -> None:
    config = client.get("/config").json()
    values = {component["id"]: component["props"].get("value") for component in config["components"]}
    job = next(endpoint for endpoint in config["dependencies"] if endpoint["api_name"] == "run")
    data = ["secret" if values[number] == "wav" else values[number] for number in job["inputs"]]
    client.post(f"{API}/queue/join", json={"data": data, "fn_index": job["id"], "session_hash": "choice"})

    assert "secret is not in the list of choices" in client.get(f"{API}/queue/data?session_hash=choice").text
    assert "secret" not in capfd.readouterr().err


def test_no_more_sessions_are_kept_than_may_be(client: httpx.Client) -> None:
    endpoints = client.get("/config").json()["dependencies"]
    number = next(endpoint["id"] for endpoint in endpoints if endpoint["api_name"] == "look")
    for session in range(3 * SESSIONS):
        body = {"data": [], "fn_index": number, "session_hash": f"session {session}"}
        assert client.post(f"{API}/run/predict", json=body).status_code == 200

    (holder,) = [kept for kept in gc.get_objects() if type(kept) is StateHolder and body["session_hash"] in kept.session_data]
    assert SESSIONS <= len(holder.session_data) <= SESSIONS + 1
