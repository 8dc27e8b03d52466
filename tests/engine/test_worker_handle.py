from __future__ import annotations

from pathlib import Path

import pytest

from steadyvoice.engine.worker_handle import WORKER_ENVIRONMENT, WorkerHandle, WorkerSpec


def environment_of_a_worker() -> set[str]:
    handle = WorkerHandle(WorkerSpec("never:loaded"))
    try:
        return set(Path(f"/proc/{handle.pid}/environ").read_text().split("\0"))
    finally:
        handle.kill()


def test_a_worker_has_what_torch_must_find_set_whenever_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORKER_ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    assert {f"{name}={value}" for name, value in WORKER_ENVIRONMENT.items()} <= environment_of_a_worker()


def test_what_the_user_set_for_torch_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORKER_ENVIRONMENT:
        monkeypatch.setenv(name, "of the user")
    assert {f"{name}=of the user" for name in WORKER_ENVIRONMENT} <= environment_of_a_worker()
