from __future__ import annotations

from steadyvoice.service.result_cache import ResultCache


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
