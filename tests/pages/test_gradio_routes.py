"""Which of Gradio's routes are there, whatever a client writes in a path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.api.gated_server import Gated, gated_server

API = "/gradio_api"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gated]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("safehttpx.is_public_ip", lambda ip: True)
        with gated_server(tmp_path_factory.mktemp("gate")) as running:
            yield running


@pytest.fixture
def client(server: Gated) -> httpx.Client:
    return server.client


@pytest.fixture
def folder(server: Gated) -> Path:
    return server.service.files.kept


def ask(client: httpx.Client, method: str, path: str) -> tuple[int, bytes]:
    """The path as it is written; httpx would bring it into its usual form."""
    connection = HTTPConnection(client.base_url.host, client.base_url.port, timeout=10)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read()


def is_refused(status: int, body: bytes) -> bool:
    return status in (404, 405) and set(json.loads(body)) == {"error"}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "path",
    [
        *(
            "proxy=https://example.hf.space/a",
            "component_server",
            "component_server/",
            "process_recording",
            "vibe-edit",
            "vibe-code",
        ),
        *("deep_link?session_hash=a", "run-history/buckets", "runs", "stream/a", "stream/a/b/1/playlist.m3u8"),
        *("queue/status", "utils"),
        *("custom_component/1/client/component/index.js", "openapi.json", "dev/reload", "token", "user", "file/etc/hostname"),
        *("gradio_api/queue/join", "../gradio_api/openapi.json", "profiling/traces", "mcp/", "login_check", "", "api/synthesize"),
    ],
)
def test_what_no_page_and_no_client_needs_is_not_there(client: httpx.Client, method: str, path: str) -> None:
    status, body = ask(client, method, f"{API}/{path}")
    assert status in (404, 405)
    assert method == "HEAD" or is_refused(status, body)


@pytest.mark.parametrize(
    "path",
    [
        *("/login", "/logout", "/monitoring", "/monitoring/summary", "/svelte/index.js", "/pwa_icon", "/no/such/page"),
        # Gradio's routes without their prefix, and written in other ways.
        *("/queue/data?session_hash=a", "/file=/etc/hostname", "/upload", "/proxy=http://127.0.0.1/", "/info"),
        *("//gradio_api/openapi.json", "/gradio_api//openapi.json", "/gradio_api/./openapi.json"),
        *("/%67radio_api/openapi.json", "/run/synthesize"),
        *(
            "/gradio_api%2fopenapi.json",
            "/gradio_api/openapi.json/",
            "/GRADIO_API/info",
            "/gradio_api/x/../openapi.json",
            "/config/",
        ),
        *("/gradio_api/call/a/../../openapi.json", "/gradio_api;/openapi.json"),
    ],
)
def test_other_ways_to_write_a_route_lead_nowhere(client: httpx.Client, path: str) -> None:
    assert is_refused(*ask(client, "GET", path))


@pytest.mark.parametrize("place", ["assets", "static"])
@pytest.mark.parametrize(
    "path", ["../gradio_api/openapi.json", "../../../../etc/hostname", "%2fetc/hostname", "/etc/hostname", "a"]
)
def test_what_belongs_to_the_page_is_served_from_its_folder_alone(client: httpx.Client, place: str, path: str) -> None:
    assert ask(client, "GET", f"/{place}/{path}")[0] in (403, 404)


def test_no_file_but_the_apps_own_is_served(client: httpx.Client, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "secret.txt"
    elsewhere.write_text("secret")
    (folder / "link.txt").symlink_to(elsewhere)
    names = [
        *(str(elsewhere), f"{folder}/../{tmp_path.name}/secret.txt", f"{folder}/link.txt", "/etc/hostname", "/proc/self/environ"),
        *("app_tts.py", f"{folder}", "", ".", "..", "a" * 5_000, "a\0b", "\udcff"),
        *("http://127.0.0.1:9/a", "HTTP://127.0.0.1:9/a", "https://example.invalid/", "//127.0.0.1:9/a", f"file://{elsewhere}"),
    ]
    for name in names:
        written = quote(name, errors="surrogateescape")
        for path in {f"{API}/file={written}", f"{API}/file={written.replace('/', '%2F')}", f"{API}/file=/{written}"}:
            for method in ("GET", "HEAD"):
                assert ask(client, method, path)[0] == 404, path


def test_an_upload_and_a_download_are_served_as_what_cannot_run_in_a_page(server: Gated) -> None:
    client = server.client
    page = b"<script>alert(1)</script>"
    uploaded = client.post(f"{API}/upload", files={"files": ("a b.html", page)}).json()[0]
    shown = client.get(f"{API}/file={quote(uploaded)}")
    assert (shown.status_code, shown.content) == (200, page)
    assert shown.headers["content-type"] == "application/octet-stream"
    assert shown.headers["content-disposition"].startswith("attachment")
    assert shown.headers["x-content-type-options"] == "nosniff"
    (file,) = server.service.files.write({"speech.wav": bytes(range(100))}, "the audio")
    part = client.get(f"{API}/file={file}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20))), "players look for a place in what they play"
    assert part.headers["content-type"] in ("audio/x-wav", "audio/wav")
    assert client.head(f"{API}/file={file}").headers["content-length"] == "100"


def test_a_page_is_never_loaded_from_a_file(client: httpx.Client, folder: Path) -> None:
    state = b'[{"id": 1, "props": {"value": "injected"}}]'
    uploaded = client.post(f"{API}/upload", files={"files": ("state.json", state)}).json()[0]
    for path in ("/", "/config"):
        link = f"../{Path(uploaded).parent.relative_to(folder)}"
        assert "injected" not in client.get(path, params={"deep_link": link}).text
        assert client.get(path, params={"page": "../x"}).status_code == 200


def test_what_the_page_and_the_clients_need_is_there(client: httpx.Client) -> None:
    config = client.get("/config").json()
    assert config["run_history"] is False
    page = client.get("/").text
    assert client.head("/").status_code == 200
    for address in {part.split('"')[0] for part in page.split('="./')[1:] if "assets/" in part.split('"')[0]}:
        assert client.get(f"/{address}").status_code == 200
    for path in ("/theme.css", "/favicon.ico", "/manifest.json", f"{API}/info", f"{API}/startup-events", f"{API}/app_id"):
        assert client.get(path).status_code == 200, path
    assert client.post(f"{API}/reset", json={"event_id": "a"}).status_code == 200


@pytest.mark.parametrize("body", [b"", b"{}", b"[1]", b'{"event_id": 1, "session_hash": null, "fn_index": "x"}', b"\xff"])
def test_a_cancel_without_a_job_is_told_what_it_needs(client: httpx.Client, body: bytes) -> None:
    answer = client.post(f"{API}/cancel", content=body)
    assert answer.status_code == 422
    assert "event_id" in answer.json()["error"]["message"]


def test_a_cancel_of_a_job_that_is_not_there_does_nothing(client: httpx.Client) -> None:
    answer = client.post(f"{API}/cancel", json={"event_id": "a", "session_hash": "b", "fn_index": 0})
    assert (answer.status_code, answer.json()) == (200, {"success": True})


@pytest.mark.parametrize("path", ["call/upload", "call/v2/upload", "run/upload", "call/upload/transcriptions"])
def test_a_path_that_ends_like_an_upload_takes_no_body_of_that_size(client: httpx.Client, path: str) -> None:
    answer = client.post(f"{API}/{path}", content=b'{"data": [' + b"[]," * 400_000 + b"1]}")

    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
