"""A bug in a route, of the API and of the page: what the caller gets, and what the log gets."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse
from starlette.routing import Mount, Route, Router
from starlette.testclient import TestClient

from app_sensevoice import build_app
from steadyvoice.settings import Settings

SECRET = "the-secret-of-the-bug"
API_BUG, API_HALF = "/bug", "/half"
PAGE_BUG, PAGE_HALF = "/gradio_api/info", "/gradio_api/app_id"  # of Gradio, and served


async def bug() -> None:
    raise RuntimeError(SECRET)


async def bug_in_the_middle() -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError(SECRET)

    return StreamingResponse(body())


@pytest.fixture(scope="module")
def app() -> FastAPI:
    app = build_app(Settings())
    (mounted,) = [route for route in app.routes if isinstance(route, Mount)]
    assert isinstance(mounted.app, Router)
    page = next(route.app for route in mounted.app.routes if isinstance(route, Route) and route.path == PAGE_BUG)
    assert isinstance(page, FastAPI)
    for routes, path, endpoint in (
        (app, API_BUG, bug),
        (app, API_HALF, bug_in_the_middle),
        (page, PAGE_BUG, bug),
        (page, PAGE_HALF, bug_in_the_middle),
    ):
        routes.add_api_route(path, endpoint)
        routes.router.routes.insert(0, routes.router.routes.pop())
    return app


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="http://127.0.0.1") as client:
        yield client


@pytest.mark.parametrize("path", [API_BUG, PAGE_BUG])
def test_a_bug_answers_with_the_requests_id_and_is_logged_once_with_its_traceback(
    client: TestClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with caplog.at_level(logging.ERROR):
        answer = client.get(path, headers={"X-Request-Id": "the-id"})

    assert answer.status_code == 500
    assert answer.headers.get_list("x-request-id") == ["the-id"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.json()["error"] == {
        "message": "internal error",
        "type": "server_error",
        "param": None,
        "code": "internal_error",
    }
    assert SECRET not in answer.text
    assert caplog.text.count(SECRET) == caplog.text.count("Traceback") == 1


@pytest.mark.parametrize("path", [API_HALF, PAGE_HALF])
def test_a_bug_in_the_middle_of_an_answer_is_left_to_the_server_which_cuts_it(
    client: TestClient, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(RuntimeError, match=SECRET):
        client.get(path)
    assert SECRET not in caplog.text, "the server logs it"


def test_a_bug_in_a_middleware_answers_with_the_requests_id_too(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("steadyvoice.api.middleware.BodyLimit.__call__", fails)
    answer = client.get("/live", headers={"X-Request-Id": "the-id"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (500, "the-id")
