"""What pages of other origins and clients with forged headers reach of the real apps: a real browser, and plain HTTP."""

from __future__ import annotations

import http.server
import json
import socket
import threading
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from steadyvoice.testing.browser import ARGUMENTS, CHROMIUM
from steadyvoice.testing.running_apps import CLIPS, RunningApp, running

REBINDING = "--host-resolver-rules=MAP evil.example 127.0.0.1"


@pytest.fixture(scope="module")
def foreign() -> Iterator[str]:
    """Another web server on this machine, which answers every path with an empty page."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Empty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A browser for which evil.example is this machine."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, REBINDING])
        yield browser.new_page()
        browser.close()


def port_of(url: str) -> int:
    return int(url.rsplit(":", 1)[1])


def counted(app: RunningApp) -> dict[str, float]:
    """Requests by route and status, without those that ask for this."""
    lines = httpx.get(f"{app.url}/metrics").text.splitlines()
    return {line.split(" ")[0]: float(line.split(" ")[1]) for line in lines if line.startswith("steadyvoice_requests_total{")}


SEND = """async ({url, options}) => {
    try { const answer = await fetch(url, options); return `${answer.type} ${answer.status}`; }
    catch (error) { return "failed"; }
}"""


def sent(page: Page, url: str, method: str = "POST", **options: object) -> str:
    return str(page.evaluate(SEND, {"url": url, "options": {"method": method, **options}}))


@pytest.mark.parametrize("name", ["evil.example", "127.0.0.1"])
def test_a_page_of_another_origin_makes_a_browser_neither_read_nor_change_anything(
    page: Page, foreign: str, tts: RunningApp, name: str
) -> None:
    page.goto(f"http://{name}:{port_of(foreign)}/")
    text = {"headers": {"Content-Type": "text/plain"}, "body": json.dumps({"text": "Hello.", "data": [], "fn_index": 0})}
    before = counted(tts)
    for path in ("/synthesize", "/v1/audio/speech", "/v1/voices", "/gradio_api/upload", "/gradio_api/queue/join"):
        assert sent(page, tts.url + path, mode="no-cors", **text) == "failed"
        assert sent(page, tts.url + path, **text) == "failed"
    assert sent(page, f"{tts.url}/v1/usage", "GET") == "failed"
    assert sent(page, f"{tts.url}/v1/voices/x", "DELETE") == "failed"
    grown = {label: count - before.get(label, 0) for label, count in counted(tts).items() if count > before.get(label, 0)}
    assert {label for label in grown if "/metrics" not in label} == {'steadyvoice_requests_total{route="page",status="403"}'}


def test_a_name_that_was_rebound_to_this_machine_gets_nothing(page: Page, tts: RunningApp) -> None:
    answer = page.goto(f"http://evil.example:{port_of(tts.url)}/")

    assert answer is not None
    assert answer.status == 421
    assert sent(page, f"http://evil.example:{port_of(tts.url)}/synthesize") == "failed"


def test_no_other_site_frames_a_page(page: Page, foreign: str, tts: RunningApp) -> None:
    page.goto(foreign)
    with page.expect_response(tts.url + "/") as framed:
        page.set_content(f'<iframe src="{tts.url}"></iframe>')

    assert framed.value.status == 403


def test_a_listed_origin_reads_answers_and_their_headers(page: Page, foreign: str) -> None:
    with running("app_tts.py", CORS_ORIGINS=foreign) as app:
        page.goto(foreign)
        spoken = page.evaluate(
            """async (url) => {
                const options = {method: "POST", headers: {"Content-Type": "application/json"}, body: '{"text": "Hello."}'};
                const answer = await fetch(url, options);
                return [answer.status, Number(answer.headers.get("X-Audio-Seconds"))];
            }""",
            f"{app.url}/synthesize",
        )
        assert spoken[0] == 200
        assert spoken[1] > 0.2
        page.goto(f"http://127.0.0.1:{port_of(app.url)}")
        page.goto(foreign.replace("127.0.0.1", "evil.example"))
        assert sent(page, f"{app.url}/v1/voices", "GET") == "failed", "of another origin than the listed one"


def test_a_forged_address_shows_no_other_callers_usage_or_answer(tts: RunningApp) -> None:
    body, key = {"text": "A secret sentence."}, {"Idempotency-Key": "the-same-for-both"}
    with httpx.Client(base_url=tts.url, transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
        spoken = other.post("/synthesize", json=body, headers=key)
        assert other.get("/v1/usage").json()["characters"] == len(body["text"])
        again = other.post("/synthesize", json=body, headers=key)
        assert again.headers["x-speech-id"] == spoken.headers["x-speech-id"]
    with httpx.Client(base_url=tts.url, transport=httpx.HTTPTransport(local_address="127.0.0.3")) as forger:
        for name in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Cookie"):
            forged = {name: "steadyvoice-tts-visitor=127.0.0.2" if name == "Cookie" else "127.0.0.2"}
            assert forger.get("/v1/usage", headers=forged).json()["characters"] == 0
        answer = forger.post("/synthesize", json=body, headers=key | {"X-Forwarded-For": "127.0.0.2"})
        assert answer.headers["x-speech-id"] != spoken.headers["x-speech-id"]


def test_a_proxy_that_is_trusted_tells_callers_apart() -> None:
    with running("app_tts.py", TRUSTED_PROXIES="127.0.0.1", ALLOWED_HOSTS="speech.example.com") as app:
        with httpx.Client(base_url=app.url, headers={"Host": "speech.example.com"}) as proxy:
            spoken = proxy.post("/synthesize", json={"text": "Hello."}, headers={"X-Forwarded-For": "192.0.2.1"})
            assert spoken.status_code == 200
            usage = [proxy.get("/v1/usage", headers={"X-Forwarded-For": f"192.0.2.{n}"}).json()["characters"] for n in (1, 2)]
        assert usage == [6, 0]


def test_a_body_that_stops_arriving_gets_408() -> None:
    head = "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\nx'
    with running("app_sensevoice.py", PROGRESS_TIMEOUT_S="0.3") as app:
        with socket.create_connection(("127.0.0.1", port_of(app.url)), timeout=30) as connection:
            connection.sendall(head.encode() + body)
            answer = connection.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"code":"request_timeout"' in answer
        assert b"0.3 s" in answer
        with app.client as client:
            assert client.post("/v1/audio/transcriptions", files={"file": CLIPS[2].read_bytes()}).status_code == 200
