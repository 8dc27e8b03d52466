"""Attacks on every input of every endpoint that the pages of the apps have, also of those that are added later."""

from __future__ import annotations

import json
import re
import shutil
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

import app_sensevoice
import app_tts
from steadyvoice.pages.input_guard import DOWNLOAD_PREFIX
from steadyvoice.provision.service_factory import create_service
from steadyvoice.settings import Settings
from steadyvoice.testing.running_apps import CLIPS
from tests.audio import wav_bytes
from tests.conftest import MakeCheckout

META = {"meta": {"_type": "gradio.FileData"}}
MARK = "the content of a victim"
SILENCE = wav_bytes(np.zeros(8_000, np.float32))


@dataclass
class Attacked:
    """An app in this process, what an attacker wants of this machine, and a server that the app must never call."""

    client: TestClient
    folder: Path  # the app's own folder for uploads and downloads
    victims: list[Path]
    url: str
    connections: list[object]
    uploaded: str  # a file that an honest client has just sent

    @property
    def endpoints(self) -> list[dict[str, Any]]:
        """As /config lists them, also the private ones."""
        return self.client.get("/config").json()["dependencies"]

    def values_of(self, endpoint: dict[str, Any]) -> list[Any]:
        """What a page that was just opened would send."""
        components = {component["id"]: component["props"] for component in self.client.get("/config").json()["components"]}
        return [components[number].get("value") for number in endpoint["inputs"]]

    def parameters(self, endpoint: dict[str, Any]) -> list[dict[str, Any]]:
        return self.client.get("/gradio_api/info").json()["named_endpoints"]["/" + endpoint["api_name"]]["parameters"]

    def attacks(self) -> dict[str, Any]:
        """Values of an input that name what was not uploaded, by what they try."""
        secret, audio = str(self.victims[0]), str(self.victims[1])
        named = {"path": secret, **META}
        return {
            "a text": named,
            "an audio file": {"path": audio, "orig_name": "a.wav", "size": 1, **META},
            "the environment": {"path": "/proc/self/environ", **META},
            "without meta": {"path": secret},
            "a stream": {**named, "is_stream": True},
            "a link out of the folder": {"path": str(self.folder / "link"), **META},
            "up and away": {"path": f"{Path(self.uploaded).parent}/../../../../../../{secret}", **META},
            "a URL": {"path": self.url, **META},
            "a URL in capitals": {"path": self.url.replace("http", "HTTP"), "url": self.url, **META},
            "a URL beside an upload": {"path": self.uploaded, "url": self.url, **META},
            "a file URL": {"path": f"file://{secret}", **META},
            "in a list": [named],
            "in a value": {"value": named, "label": named},
            "deep": [{"a": [[{"b": (named, [])}]]}, 0],
            "in another": {"path": self.uploaded, "orig_name": named, **META},
            "as text": json.dumps(named),
            "a bare path": audio,
            "a bare URL": self.url,
        }


@contextmanager
def counting_server() -> Iterator[tuple[str, list[object]]]:
    connections: list[object] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.client_address)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/a.wav", connections
        server.shutdown()
        thread.join()


def upload(client: TestClient) -> str:
    path: str = client.post("/gradio_api/upload", files={"files": ("a.wav", SILENCE)}).json()[0]
    return path


def asr(hub: Path, _: MakeCheckout) -> FastAPI:
    return app_sensevoice.build_app(Settings(asr_engine="pocketsphinx", cache_hub=hub, queue_size=900, concurrency=40))


def espeak(hub: Path, _: MakeCheckout) -> FastAPI:
    return app_tts.build_app(Settings(tts_engine="espeak", cache_hub=hub, queue_size=900, concurrency=40))


def indextts2(hub: Path, make_checkout: MakeCheckout) -> FastAPI:
    (hub / "voices").mkdir()
    shutil.copy(CLIPS[0], hub / "voices")
    python = make_checkout("2.5") / ".venv" / "bin" / "python"
    settings = Settings(tts_engine="indextts2", indextts_python=python, cache_hub=hub, queue_size=900, concurrency=40)
    return app_tts.build_app(settings, create_service(settings, "tts"))


@pytest.fixture(scope="module", params=[asr, espeak, indextts2], ids=lambda build: build.__name__)
def attacked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_checkout: MakeCheckout
) -> Iterator[Attacked]:
    build: Callable[[Path, MakeCheckout], FastAPI] = request.param
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    secret, audio = elsewhere / "secret.txt", elsewhere / "secret.wav"
    secret.write_text(MARK)
    secret.chmod(0o600)
    audio.write_bytes(CLIPS[2].read_bytes() + MARK.encode())
    with pytest.MonkeyPatch.context() as patch, counting_server() as (url, connections):
        patch.setattr("safehttpx.is_public_ip", lambda ip: True)  # or the app would fetch from public addresses alone
        with TestClient(build(tmp_path_factory.mktemp("hub"), make_checkout), "http://127.0.0.1") as client:
            uploaded = upload(client)
            own = Path(uploaded).parents[1]
            (own / "link").symlink_to(secret)
            yield Attacked(client, own, [secret, audio], url, connections, uploaded)


def answers(attacked: Attacked, requests: list[dict[str, Any]], route: str) -> str:
    """What came back from a route of Gradio's for every request, as one text."""
    client = attacked.client
    if route == "run":
        return "\n".join(client.post("/gradio_api/run/predict", json=request).text for request in requests)
    joined = [client.post("/gradio_api/queue/join", json=request) for request in requests]
    assert {answer.status_code for answer in joined} == {200}
    return client.get("/gradio_api/queue/data", params={"session_hash": requests[0]["session_hash"]}).text


@pytest.mark.parametrize("route", ["queue/join", "run"])
def test_no_input_of_any_endpoint_reads_what_was_not_uploaded(attacked: Attacked, route: str) -> None:
    before = set(attacked.folder.rglob("*"))
    told = []
    for endpoint in attacked.endpoints:
        honest = attacked.values_of(endpoint)
        session = f"{route}-{endpoint['id']}"
        attacks = attacked.attacks()
        if endpoint["queue"] != (route == "queue/join"):  # not the way that its clients take
            attacks = {name: attacks[name] for name in ("a text", "a URL", "deep")}
        requests = [
            {"fn_index": endpoint["id"], "session_hash": session, "data": [*honest[:index], attack, *honest[index + 1 :]]}
            for index in range(len(honest))
            for attack in attacks.values()
        ]
        if requests:
            told.append(answers(attacked, requests, route))

    assert told
    assert MARK not in "".join(told)
    assert "amiable" not in "".join(told), "what a victim's recording says"
    assert not re.search(rf"{attacked.folder}/[\w./-]*secret", "".join(told)), "no path of a copy"
    new = {path for path in set(attacked.folder.rglob("*")) - before if path.is_file()}
    assert {path.parent.name[: len(DOWNLOAD_PREFIX)] for path in new} <= {DOWNLOAD_PREFIX}, "nothing was copied"
    assert not [path for path in new if MARK.encode() in path.read_bytes()]
    assert attacked.connections == [], "nothing was fetched"


@pytest.mark.parametrize("route", ["call/{name}", "call/v2/{name}", "run/{name}", "api/{name}"])
def test_the_other_routes_of_an_endpoint_read_no_more(attacked: Attacked, route: str) -> None:
    client, told = attacked.client, []
    before = set(attacked.folder.rglob("*"))
    for endpoint in attacked.endpoints:
        if endpoint["api_visibility"] != "public":
            continue
        address = f"/gradio_api/{route.format(name=endpoint['api_name'])}"
        names = [
            each["parameter_name"]
            for each in client.get("/gradio_api/info").json()["named_endpoints"]["/" + endpoint["api_name"]]["parameters"]
        ]
        honest = attacked.values_of(endpoint)
        for attack in ("a text", "an audio file", "a URL", "deep"):
            for index in range(len(honest)):
                data = [*honest[:index], attacked.attacks()[attack], *honest[index + 1 :]]
                body = dict(zip(names, data, strict=True)) if "v2" in route else {"data": data}
                answer = client.post(address, json=body)
                told.append(answer.text)
                if answer.status_code == 200:
                    told.append(client.get(f"{address}/{answer.json()['event_id']}").text)
                    assert "event: error" in told[-1]
                    assert 'error": null' not in told[-1], "it is told what is wrong"
                else:
                    assert answer.status_code == 404, "the queue cannot be passed by"

    assert told
    assert "secret" not in "".join(told)
    assert set(attacked.folder.rglob("*")) == before
    assert attacked.connections == []


def test_an_honest_client_is_served_after_all_that(attacked: Attacked) -> None:
    endpoint = next(endpoint for endpoint in attacked.endpoints if endpoint["api_visibility"] == "public")
    own = {"text": "Hello.", "audio": {"path": upload(attacked.client), "orig_name": "a.wav", "url": attacked.url, **META}}
    data = [own.get(each["parameter_name"], each["parameter_default"]) for each in attacked.parameters(endpoint)]
    address = f"/gradio_api/call/{endpoint['api_name']}"
    event = attacked.client.post(address, json={"data": data}).json()["event_id"]
    assert "event: complete" in attacked.client.get(f"{address}/{event}").text
    assert attacked.connections == []
