from __future__ import annotations

import threading

import pytest

from steadyvoice.admission.capacity import Capacity
from steadyvoice.admission.concurrency_limit import ConcurrencyLimit
from steadyvoice.errors import EngineUnavailable, Overloaded


def limit_of(concurrency: int = 1, queue_size: int = 1) -> ConcurrencyLimit:
    return ConcurrencyLimit(Capacity(concurrency, queue_size), lambda: 7.0, lambda _: None)


def test_requests_up_to_the_limit_are_admitted_and_the_next_is_told_when_to_come_back() -> None:
    limit = limit_of()
    with limit.acquire("a caller"), limit.acquire("a caller"):
        with pytest.raises(Overloaded, match=r"2 requests .*\(1 at work, 1 waiting\)") as refused, limit.acquire("a caller"):
            pass
        assert refused.value.retry_after_s == 7.0
    with limit.acquire("a caller"):
        assert limit.in_flight == 1


def test_a_place_is_given_back_when_the_work_fails() -> None:
    limit = limit_of()
    for _ in range(5):
        with pytest.raises(ZeroDivisionError), limit.acquire("a caller"):
            raise ZeroDivisionError
    assert limit.in_flight == 0


def test_while_draining_no_request_is_admitted_and_those_in_flight_are_awaited() -> None:
    limit = limit_of()
    acquired, release = threading.Event(), threading.Event()

    def hold() -> None:
        with limit.acquire("a caller"):
            acquired.set()
            release.wait(30)

    request = threading.Thread(target=hold)
    request.start()
    assert acquired.wait(30)
    limit.drain()
    with pytest.raises(EngineUnavailable, match="draining"), limit.acquire("a caller"):
        pass
    assert not limit.wait_idle(0)
    release.set()
    assert limit.wait_idle(30)
    request.join()
