"""Idempotency keys: finished answers are kept by key, and by content, so that a retry is not synthesized again.

A key belongs to one caller and to one body. An answer is kept when it is whole: a request that failed or was cancelled leaves
nothing, and can be retried with the same key. Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from steadyvoice.errors import InProgress, KeyReused
from steadyvoice.media.subtitles import Cue
from steadyvoice.service.result_cache import ResultCache

ANSWER_BYTES = 2_000  # overhead of an entry beside its audio and subtitles, an upper estimate
CUE_BYTES = 300


@dataclass(frozen=True)
class CachedResponse:
    """One finished answer."""

    body: bytes
    media_type: str
    headers: Mapping[str, str]
    speech_id: str
    cues: Sequence[Cue]


@dataclass(frozen=True)
class Claim:
    """One caller's Idempotency-Key, with a digest of the request's body."""

    caller: str
    key: str
    digest: str


class IdempotencyCache:
    """All answers that are kept, bounded in bytes: the least recently used one goes first."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._cache: ResultCache[tuple[str, CachedResponse]] = ResultCache(max_bytes, _size_of)
        self._running: dict[tuple[str, str], str] = {}  # caller and key -> digest

    @contextmanager
    def claimed(self, claim: Claim | None) -> Iterator[None]:
        """Reserve the key while the block runs; does nothing without one. Raises as `find`."""
        if claim is None:
            yield
            return
        self._check_running(claim)
        self._running[claim.caller, claim.key] = claim.digest
        try:
            yield
        finally:
            del self._running[claim.caller, claim.key]

    def find(self, claim: Claim | None) -> CachedResponse | None:
        """The answer that this caller got for this key.

        Raises:
            KeyReused: it was for another body.
            InProgress: the first request is still at work.
        """
        if claim is None:
            return None
        if (kept := self._cache.get((claim.caller, claim.key))) is None:
            self._check_running(claim)
            return None
        digest, answer = kept
        _check_digest(digest, claim)
        return answer

    def find_content(self, content: Hashable) -> CachedResponse | None:
        """The answer to the same request of any caller; None finds nothing."""
        kept = self._cache.get(("content", content)) if content is not None else None
        return kept and kept[1]

    def keep(self, answer: CachedResponse, claim: Claim | None, content: Hashable = None) -> None:
        """Under the key, the content, both or neither."""
        if claim is not None:
            self._cache.put((claim.caller, claim.key), (claim.digest, answer))
        if content is not None:
            self._cache.put(("content", content), ("", answer))

    def _check_running(self, claim: Claim) -> None:
        digest = self._running.get((claim.caller, claim.key))
        if digest is not None:
            _check_digest(digest, claim)
            raise InProgress("the first request with this Idempotency-Key is still at work", retry_after_s=1)


def _check_digest(digest: str, claim: Claim) -> None:
    if digest != claim.digest:
        raise KeyReused("this Idempotency-Key came with another body before", param="Idempotency-Key")


def _size_of(kept: tuple[str, CachedResponse]) -> int:
    answer = kept[1]
    return ANSWER_BYTES + len(answer.body) + sum(CUE_BYTES + 4 * len(cue.text) for cue in answer.cues)
