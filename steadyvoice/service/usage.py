"""Usage totals per caller. Counted where speech is synthesized: an answer from a cache adds nothing."""

from __future__ import annotations

from dataclasses import dataclass

from cachetools import LRUCache

CALLERS_KEPT = 10_000


@dataclass(frozen=True)
class Usage:
    """Totals of one caller since the start, or since it was last dropped."""

    requests: int = 0
    characters: int = 0  # of cleaned text
    audio_seconds: float = 0.0
    tokens: int = 0  # of the audio

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.requests + other.requests,
            self.characters + other.characters,
            self.audio_seconds + other.audio_seconds,
            self.tokens + other.tokens,
        )


class Meter:
    """Usage by caller; beyond `callers` the one that was served longest ago is dropped. Runs on the event loop."""

    def __init__(self, callers: int = CALLERS_KEPT) -> None:
        self._usage: LRUCache[str, Usage] = LRUCache(callers)

    def count(self, caller: str, usage: Usage) -> None:
        self._usage[caller] = self.usage(caller) + usage

    def usage(self, caller: str) -> Usage:
        """Zeros for a caller that is not known."""
        return self._usage.get(caller, Usage())
