"""When an app says that it is ready: as long as the next request would be let through to the engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from starlette.testclient import TestClient

from steadyvoice.admission.circuit_breaker import OPEN_S, THRESHOLD
from steadyvoice.api.app import create_app
from steadyvoice.engine.worker_process import WorkerSpec
from steadyvoice.errors import EngineUnavailable, WorkerDied
from steadyvoice.provision.service_factory import create_service
from steadyvoice.service.service import Service
from steadyvoice.settings import Settings


@contextmanager
def serving(model: str) -> Iterator[tuple[TestClient, Service]]:
    service = create_service(Settings(), "asr", WorkerSpec(model, {"lines": []}))
    with TestClient(create_app(service), base_url="http://127.0.0.1") as client:
        yield client, service


def fail(service: Service) -> None:
    """One job that ends with the worker's death."""
    ticket: Future[Any] = Future()
    service.admission.breaker.watch(service.admission.breaker.admit(), [ticket])
    ticket.set_exception(WorkerDied("x"))


def test_an_app_whose_model_is_not_loaded_yet_is_ready() -> None:
    with serving("tests.service.scripted_recognizer:ScriptedRecognizer") as (client, _):
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["status"], answer.json()["model"]) == (200, "ready", "unloaded")


def test_while_the_breaker_is_open_the_app_is_not_ready_and_then_it_is_so_that_a_request_can_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1_000.0
    with serving("tests.service.scripted_recognizer:ScriptedRecognizer") as (client, service):
        monkeypatch.setattr(service.admission.breaker, "_now", lambda: now)
        for _ in range(THRESHOLD):
            fail(service)
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["status"]) == (503, "engine_failing")
        assert "keeps failing" in answer.json()["reason"]
        assert 1 <= int(answer.headers["retry-after"]) <= OPEN_S

        now += OPEN_S + 1
        assert client.get("/ready").status_code == client.get("/ready").status_code == 200, "asking is no probe"
        probe = service.admission.breaker.admit()
        assert client.get("/ready").json()["status"] == "engine_failing", "others are refused until it is decided"
        decided: Future[Any] = Future()
        service.admission.breaker.watch(probe, [decided])
        decided.set_result("text")
        assert client.get("/ready").status_code == 200


def test_after_a_load_that_failed_the_app_is_ready_again_when_the_next_may_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving("tests.there_is_no_such_module:Model") as (client, service):
        with pytest.raises(EngineUnavailable):
            service.engine.load().result(60)
        slot = service.engine._lifecycle
        monkeypatch.setattr(slot, "_not_before", time.monotonic() + 100)
        answer = client.get("/ready")
        assert (answer.status_code, answer.json()["status"], answer.json()["model"]) == (503, "load_failing", "backoff")
        assert "could not be loaded" in answer.json()["reason"]
        assert int(answer.headers["retry-after"]) == pytest.approx(100, abs=5)
        monkeypatch.setattr(slot, "_not_before", time.monotonic())
        assert (client.get("/ready").status_code, client.get("/ready").json()["status"]) == (200, "ready")


def test_an_app_that_drains_says_so_whatever_else_is_wrong() -> None:
    with serving("tests.service.scripted_recognizer:ScriptedRecognizer") as (client, service):
        for _ in range(THRESHOLD):
            fail(service)
        service.admission.limit.drain()
        assert client.get("/ready").json()["status"] == "draining"
