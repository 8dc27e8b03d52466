"""Subtitles of the last minutes' speech, by its id. An id is a secret: it alone gives access. Runs on the event loop."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cachetools import TTLCache

from steadyvoice.errors import InProgress, NotFound
from steadyvoice.media.subtitles import Cue

KEPT = 1_000  # speeches
KEPT_S = 600.0  # seconds
MAX_CHARS = 5_000_000  # of all of them together


class SubtitleStore:
    """`with store.speaking() as speech_id:` while it is synthesized, `keep` when it is done."""

    def __init__(self) -> None:
        self._speaking: set[str] = set()
        # Weighed so that as many fit as may be kept, and fewer where their texts are long.
        self._kept: TTLCache[str, Sequence[Cue]] = TTLCache(MAX_CHARS, KEPT_S, getsizeof=_weight)

    @contextmanager
    def speaking(self) -> Iterator[str]:
        """A new id, which `cues` knows as not ready while the block runs."""
        speech_id = secrets.token_urlsafe(16)
        self._speaking.add(speech_id)
        try:
            yield speech_id
        finally:
            self._speaking.discard(speech_id)

    def keep(self, speech_id: str, cues: Sequence[Cue]) -> None:
        """From here on `cues` gives them. A text that is longer than all together may be is not kept."""
        if _weight(cues) <= MAX_CHARS:
            self._kept[speech_id] = cues

    def cues(self, speech_id: str) -> Sequence[Cue]:
        """
        Raises:
            InProgress: it is still being spoken.
            NotFound: it failed, it is too long ago, or there was none.
        """
        kept = self._kept.get(speech_id)
        if kept is not None:
            return kept
        if speech_id in self._speaking:
            raise InProgress("this speech is still being spoken; its subtitles are there once it is done", retry_after_s=1)
        raise NotFound(f"no speech of this id was spoken within the last {KEPT_S / 60:g} minutes", param="id")


def _weight(cues: Sequence[Cue]) -> int:
    return max(MAX_CHARS // KEPT, sum(len(cue.text) for cue in cues))
