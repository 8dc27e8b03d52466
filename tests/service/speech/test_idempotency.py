from __future__ import annotations

import pytest

from steadyvoice.errors import InProgress, KeyReused
from steadyvoice.media.subtitles import Cue
from steadyvoice.service.speech.idempotency import ANSWER_BYTES, CachedResponse, Claim, IdempotencyCache

CLAIM = Claim("caller", "key", "digest")


def answer(size: int) -> CachedResponse:
    return CachedResponse(bytes(size), "audio/wav", {}, "id", [Cue(0.0, 1.0, "Hello.")])


def test_an_answer_is_found_by_its_key_and_by_its_content() -> None:
    repeats, kept = IdempotencyCache(100_000), answer(10)
    repeats.keep(kept, CLAIM, content=("text", 1))

    assert repeats.find(CLAIM) is kept
    assert repeats.find_content(("text", 1)) is kept
    assert repeats.find_content(("text", 2)) is None
    assert repeats.find_content(None) is None
    assert repeats.find(None) is None
    assert repeats.find(Claim("other", "key", "digest")) is None


def test_a_key_is_refused_with_another_body_before_during_and_after() -> None:
    repeats, reused = IdempotencyCache(100_000), Claim("caller", "key", "another digest")
    with repeats.claimed(CLAIM):
        for enter in (repeats.claimed(reused).__enter__, lambda: repeats.find(reused)):
            with pytest.raises(KeyReused):
                enter()
        with pytest.raises(InProgress):
            repeats.find(CLAIM)
        with pytest.raises(InProgress), repeats.claimed(CLAIM):
            pass
        repeats.keep(answer(10), CLAIM)
        assert repeats.find(CLAIM) is not None, "at once, although the last byte is still on its way"
    with pytest.raises(KeyReused):
        repeats.find(reused)


def test_a_block_that_fails_frees_the_key() -> None:
    repeats = IdempotencyCache(100_000)
    with pytest.raises(ZeroDivisionError), repeats.claimed(CLAIM):
        raise ZeroDivisionError
    assert repeats.find(CLAIM) is None
    with repeats.claimed(Claim("caller", "key", "another digest")):
        pass


def test_answers_are_bounded_in_bytes_and_the_least_used_goes_first() -> None:
    repeats = IdempotencyCache(3 * (ANSWER_BYTES + 1_000))
    for content in ("one", "two", "one", "three"):
        if repeats.find_content(content) is None:
            repeats.keep(answer(1_000), None, content)
    assert [repeats.find_content(content) is not None for content in ("one", "two", "three")] == [True, False, True]

    repeats.keep(answer(1_000_000), None, "too large")
    assert repeats.find_content("too large") is None
    assert repeats.find_content("three") is not None


def test_without_room_nothing_is_kept() -> None:
    repeats = IdempotencyCache(0)
    repeats.keep(answer(0), CLAIM, "content")
    assert repeats.find(CLAIM) is None
    assert repeats.find_content("content") is None
