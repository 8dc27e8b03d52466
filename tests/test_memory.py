from __future__ import annotations

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType, SimpleNamespace

import numpy as np
import psutil
import pytest

from steadyvoice.memory import RING_SIZE, MemoryLog, MemorySample, rss_bytes, sample


def fake_torch(initialized: bool) -> ModuleType:
    """The part of torch that is asked for memory."""
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(  # type: ignore[attr-defined]
        is_available=lambda: True,
        is_initialized=lambda: initialized,
        memory_allocated=lambda: 1_000,
        memory_reserved=lambda: 2_000,
        max_memory_allocated=lambda: 3_000,
        mem_get_info=lambda: (4_000, 5_000),
    )
    return torch


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)


def test_the_resident_size_is_what_the_system_says() -> None:
    assert rss_bytes() == pytest.approx(psutil.Process().memory_info().rss, rel=0.1)


def test_memory_that_is_taken_shows() -> None:
    before = rss_bytes()
    taken = np.ones(100_000_000, np.uint8)

    assert rss_bytes() - before > 0.9 * taken.nbytes


def test_a_process_without_a_gpu_has_no_gpu_figures_and_torch_is_not_imported_to_find_out(without_torch: None) -> None:
    measured = sample("decode", "app")

    assert (measured.step, measured.process) == ("decode", "app")
    assert measured.rss > 1_000_000
    assert (measured.allocated, measured.reserved, measured.peak, measured.free) == (None, None, None, None)
    assert "torch" not in sys.modules


def test_a_process_that_has_used_its_gpu_says_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(initialized=True))

    measured = sample("batch", "worker")

    assert (measured.allocated, measured.reserved, measured.peak, measured.free) == (1_000, 2_000, 3_000, 4_000)


def test_asking_does_not_wake_a_gpu_that_the_process_has_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", fake_torch(initialized=False))

    assert sample("load", "worker").allocated is None


def test_a_sample_is_plain_data_for_a_json_answer(without_torch: None) -> None:
    measured = sample("load", "worker")

    assert MemorySample(**json.loads(json.dumps(measured.as_dict()))) == measured


def test_the_log_gives_its_samples_oldest_first_and_keeps_only_the_last() -> None:
    log = MemoryLog()
    for number in range(RING_SIZE + 10):
        log.record(MemorySample("batch", "worker", at=number, rss=1))

    assert [kept.at for kept in log.samples()] == list(range(10, RING_SIZE + 10))


def test_every_sample_is_observed_once() -> None:
    observed: list[MemorySample] = []
    log = MemoryLog(observe=observed.append)

    log.step("decode")
    log.record(MemorySample("batch", "worker", at=1.0, rss=1))

    assert observed == log.samples()
    assert [(s.step, s.process) for s in observed] == [("decode", "app"), ("batch", "worker")]


def test_every_sample_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log = MemoryLog()

    with caplog.at_level(logging.INFO):
        log.record(MemorySample("batch", "worker", at=1.0, rss=123_000_000, allocated=4_000_000))

    (line,) = caplog.messages
    assert line == "memory step=batch process=worker rss=123MB allocated=4MB reserved=- peak=- free=-"


def test_many_threads_lose_no_sample() -> None:
    log = MemoryLog()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: log.record(MemorySample("batch", "app", at=n, rss=1)), range(RING_SIZE)))

    assert sorted(kept.at for kept in log.samples()) == list(range(RING_SIZE))
