from __future__ import annotations

import gc
import threading
import weakref

import pytest

from steadyvoice.errors import Overloaded
from steadyvoice.service.result_cache import PostProcessor, ResultCache


def test_results_and_errors_reach_whoever_waits() -> None:
    pool = PostProcessor()
    assert pool.submit(lambda: 6 * 7).result(30) == 42
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 / 0).result(30)
    pool.close()


def test_the_pool_is_bounded_and_says_so() -> None:
    pool = PostProcessor(threads=1, max_waiting=2)
    busy, go = threading.Event(), threading.Event()

    def hold() -> None:
        busy.set()
        go.wait(30)

    first = pool.submit(hold)
    assert busy.wait(30)
    waiting = [pool.submit(lambda: "done") for _ in range(2)]
    with pytest.raises(Overloaded, match="2 results wait"):
        pool.submit(lambda: "too much")
    go.set()
    assert [future.result(30) for future in (first, *waiting)] == [None, "done", "done"]
    pool.close()


def test_the_pool_keeps_nothing_of_what_it_finished() -> None:
    class Result:
        pass

    pool = PostProcessor(threads=1)
    future = pool.submit(Result)
    kept = weakref.ref(future.result(30))
    del future
    pool.submit(lambda: None).result(30)  # the thread has let go of the first
    gc.collect()
    assert kept() is None
    pool.close()


def test_the_cache_is_bounded_in_bytes_and_forgets_the_least_recently_used() -> None:
    cache: ResultCache[bytes] = ResultCache(100, len)
    cache.put("a", b"x" * 40)
    cache.put("b", b"x" * 40)
    assert cache.get("a")
    cache.put("c", b"x" * 40)
    assert (cache.get("a") is not None, cache.get("b"), cache.get("c") is not None) == (True, None, True)
    assert cache.bytes == 80
    cache.put("huge", b"x" * 101)
    assert cache.get("huge") is None
    assert cache.bytes == 80


def test_a_cache_of_no_bytes_keeps_nothing() -> None:
    cache: ResultCache[bytes] = ResultCache(0, lambda result: len(result) + 1_000)
    cache.put("a", b"x")
    assert cache.get("a") is None
