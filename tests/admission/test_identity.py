"""A small app behind the middleware, and the test client's requests from chosen addresses."""

from __future__ import annotations

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.testclient import TestClient

from steadyvoice.admission.identity import Identify, caller_of


def client(*trusted: str, address: str = "127.0.0.1", role: str = "asr", scheme: str = "http") -> TestClient:
    app = FastAPI()

    @app.get("/caller")
    def caller(request: Request) -> PlainTextResponse:
        return PlainTextResponse(caller_of(request))

    @app.get("/page")
    def page() -> HTMLResponse:
        return HTMLResponse("<p>A page</p>")

    @app.get("/headers")
    def headers(request: Request) -> dict[str, str]:
        return dict(request.headers)

    app.add_middleware(Identify, role=role, trusted_proxies=trusted)
    return TestClient(app, client=(address, 50_000), base_url=f"{scheme}://127.0.0.1")


def test_a_client_without_a_cookie_is_its_address() -> None:
    assert client(address="192.0.2.7").get("/caller").text == "192.0.2.7"


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP"])
def test_no_client_chooses_its_address_by_a_header(name: str) -> None:
    assert client().get("/caller", headers={name: "192.0.2.7"}).text == "127.0.0.1"


def test_a_trusted_proxy_names_the_client_and_only_the_last_address_that_it_saw_itself_counts() -> None:
    proxied = client("10.0.0.0/8", address="10.1.2.3")

    assert proxied.get("/caller", headers={"X-Forwarded-For": "192.0.2.7"}).text == "192.0.2.7"
    # What stands before it was sent by the client.
    assert proxied.get("/caller", headers={"X-Forwarded-For": "198.51.100.1, 192.0.2.7"}).text == "192.0.2.7"
    assert client("10.0.0.0/8", address="11.1.2.3").get("/caller", headers={"X-Forwarded-For": "192.0.2.7"}).text == "11.1.2.3"


def test_headers_of_proxies_reach_the_app_from_trusted_ones_only() -> None:
    sent = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https", "X-Gradio-Server": "http://evil.example"}

    assert not {name.lower() for name in sent} & client().get("/headers", headers=sent).json().keys()
    assert client("127.0.0.1/32").get("/headers", headers=sent).json()["x-forwarded-host"] == "evil.example"


def test_a_browser_that_opened_a_page_is_the_same_visitor_from_then_on() -> None:
    browser = client()
    assert "set-cookie" in browser.get("/page").headers

    first = browser.get("/caller").text
    assert first.startswith("visitor:")
    assert browser.get("/caller").text == first
    assert "set-cookie" not in browser.get("/page").headers, "a visitor keeps the number"


def test_two_browsers_at_one_address_are_two_visitors() -> None:
    app = client()
    app.get("/page")
    first = app.get("/caller").text
    app.cookies.clear()
    app.get("/page")
    assert app.get("/caller").text != first


def test_only_pages_give_cookies() -> None:
    assert "set-cookie" not in client().get("/caller").headers


def test_the_cookie_is_out_of_reach_for_scripts_and_for_requests_of_other_sites() -> None:
    assert client().get("/page").headers["set-cookie"].endswith("; Path=/; HttpOnly; SameSite=Lax")
    assert client(scheme="https").get("/page").headers["set-cookie"].endswith("; Secure")


@pytest.mark.parametrize("change", ["number", "signature", "none", "empty", "other app", "other run"])
def test_a_cookie_that_was_not_signed_here_is_nothing(change: str) -> None:
    browser = client()
    browser.get("/page")
    (cookie,) = browser.cookies.jar
    number, signature = (cookie.value or "").split(".")
    forged = {
        "number": f"{'0' * len(number)}.{signature}",
        "signature": f"{number}.{'0' * len(signature)}",
        "none": number,
        "empty": ".",
        "other app": f"{number}.{signature}",
        "other run": f"{number}.{signature}",
    }[change]
    if change == "other app":
        browser = client(role="tts")
        cookie.name = cookie.name.replace("asr", "tts")
    if change == "other run":
        browser = client()
    assert client().get("/caller", headers={"Cookie": f"{cookie.name}={forged}"}).text == "127.0.0.1"
    browser.cookies.clear()
    assert browser.get("/caller", headers={"Cookie": f"{cookie.name}={forged}"}).text == "127.0.0.1"
