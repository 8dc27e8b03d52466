from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.testclient import TestClient

from steadyvoice.api.origins import RefuseForeign, SecurityHeaders


def client(host: str = "127.0.0.1", allowed: tuple[str, ...] = (), origins: tuple[str, ...] = (), url: str = "") -> TestClient:
    app = FastAPI()

    @app.api_route("/work", methods=["GET", "POST", "DELETE"])
    def work() -> PlainTextResponse:
        return PlainTextResponse("done")

    @app.get("/page")
    def page() -> HTMLResponse:
        return HTMLResponse("<p>A page</p>")

    app.add_middleware(RefuseForeign, host=host, allowed_hosts=allowed, cors_origins=origins)
    app.add_middleware(SecurityHeaders, shared=bool(origins))
    return TestClient(app, base_url=url or "http://127.0.0.1:6006")


def status(app: TestClient, method: str = "POST", **headers: str) -> int:
    return app.request(method, "/work", headers={name.replace("_", "-"): value for name, value in headers.items()}).status_code


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:6006", "127.0.0.1", "127.0.0.9:80", "[::1]:6006"])
def test_loopback_names_are_the_servers_own(host: str) -> None:
    assert status(client(), Host=host) == 200


HOSTILE = [
    "evil.example",
    "evil.example:6006",
    "127.0.0.1.nip.io",
    "localhost.evil.example",
    "192.168.1.5",
    "x@localhost",
    "localhost?evil",
    "localhost#evil",
]
MALFORMED = ["", "[::1", "localhost:port", "localhost/path", "a b", "127.0.0.1:99999"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("host", HOSTILE + MALFORMED)
def test_a_name_that_is_not_the_servers_is_refused_whatever_is_asked(host: str, method: str) -> None:
    assert status(client(), method, Host=host) == 421


def test_the_refusal_names_the_host_and_the_setting() -> None:
    error = client().get("/work", headers={"Host": "evil.example"}).json()["error"]

    assert (error["code"], error["param"]) == ("unknown_host", None)
    assert "'evil.example'" in error["message"]
    assert "STEADYVOICE_ALLOWED_HOSTS" in error["message"]


def test_the_listening_address_and_allowed_names_are_the_servers_too() -> None:
    app = client("speech.lan", allowed=("api.example.com", "*.example.org"))

    for host in ("speech.lan:6006", "api.example.com", "a.example.org", "a.b.example.org"):
        assert status(app, Host=host) == 200
    for host in ("example.org", "badexample.org", "b.api.example.com"):
        assert status(app, Host=host) == 421
    assert status(client(allowed=("*",)), Host="anything.example") == 200


def test_a_server_that_listens_everywhere_takes_any_address_and_no_foreign_name() -> None:
    app = client("0.0.0.0")

    assert status(app, Host="192.168.1.5:6006") == status(app, Host="[fd00::1]") == 200
    assert status(app, Host="evil.example") == 421


def test_the_address_that_a_connection_was_made_to_is_the_servers() -> None:
    app = client("speech.lan", url="http://10.0.0.5:6006")

    assert status(app, Host="10.0.0.5:6006") == 200
    assert status(app, Host="10.0.0.6:6006") == 421


FOREIGN: list[dict[str, str]] = [
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:7860"},
    {"Origin": "https://127.0.0.1"},
    {"Origin": "file://"},
    {"Origin": "http://127.0.0.1:6006.evil.example"},
    {"Origin": "http://evil.example", "Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"},
]


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("headers", FOREIGN, ids=lambda headers: " ".join(headers.values()))
def test_what_another_site_makes_a_browser_send_is_refused(headers: dict[str, str], method: str) -> None:
    assert status(client(), method, **headers) == 403


OWN: list[dict[str, str]] = [
    {},
    {"Origin": "http://127.0.0.1:6006"},
    {"Origin": "http://127.0.0.1:6006", "Sec_Fetch_Site": "same-origin"},
    {"Sec_Fetch_Site": "none", "Sec_Fetch_Mode": "navigate"},
    {"Sec_Fetch_Mode": "cors"},  # as Node's fetch sends it
]


@pytest.mark.parametrize("headers", OWN, ids=lambda headers: " ".join(headers.values()) or "no header")
def test_the_servers_own_pages_and_clients_that_are_no_browsers_pass(headers: dict[str, str]) -> None:
    assert status(client(), **headers) == 200


def test_a_link_from_another_site_opens_the_page_but_sends_nothing() -> None:
    followed = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

    assert status(client(), "GET", **followed) == 200
    assert status(client(), "POST", **followed, Origin="http://evil.example") == 403


def test_a_page_behind_a_proxy_that_speaks_tls_is_the_servers_own() -> None:
    app = client(allowed=("speech.example.com",))

    assert status(app, Host="speech.example.com", Origin="https://speech.example.com") == 200
    assert status(app, Host="speech.example.com", Origin="https://speech.example.com:8443") == 403
    assert status(app, Host="speech.example.com", Origin="https://speech.example.com:8443", Sec_Fetch_Site="same-origin") == 200


def test_listed_origins_may_use_the_server() -> None:
    app = client(origins=("https://app.example.com",))

    assert status(app, Origin="https://app.example.com", Sec_Fetch_Site="cross-site") == 200
    assert status(app, Origin="https://other.example.com") == 403
    assert status(client(origins=("*",)), Origin="https://other.example.com") == 200


def headers_of(path: str, **given: Any) -> dict[str, str]:
    return dict(client(**given).get(path).headers)


def test_every_answer_says_what_a_browser_may_do_with_it() -> None:
    for path in ("/page", "/work", "/nothing"):
        headers = headers_of(path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "frame-ancestors" in headers["content-security-policy"]
        assert "http" not in headers["content-security-policy"]
    assert "script-src" not in headers_of("/work")["content-security-policy"]
    assert "cross-origin-resource-policy" not in headers_of("/work", origins=("https://app.example.com",))
