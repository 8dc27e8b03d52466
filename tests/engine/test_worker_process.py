from __future__ import annotations

import os
import struct
from multiprocessing import Pipe
from pathlib import Path

import pytest

from steadyvoice.engine.worker_process import WORKER_ENVIRONMENT, WorkerGone, WorkerProcess, WorkerSpec


def environment_of_a_worker() -> set[str]:
    handle = WorkerProcess(WorkerSpec("never:loaded"))
    try:
        assert handle.connection.poll(60), "it says hello"  # before that it may still be becoming what it is
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


def test_a_frame_longer_than_any_answer_is_not_believed() -> None:
    handle = WorkerProcess(WorkerSpec("never:loaded"))
    try:
        handle.connection.close()
        handle.connection, liar = Pipe()
        os.write(liar.fileno(), struct.pack("!iQ", -1, 1 << 40))  # how multiprocessing announces a long frame
        with pytest.raises(WorkerGone):
            handle.receive()
    finally:
        handle.kill()
