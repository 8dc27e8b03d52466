from __future__ import annotations

import pytest

from steadyvoice.errors import InProgress, NotFound
from steadyvoice.media.subtitles import Cue
from steadyvoice.service.speech.subtitle_store import KEPT, MAX_CHARS, SubtitleStore

CUES = [Cue(0.0, 1.0, "Hello.")]


def test_an_id_is_known_while_it_is_spoken_and_its_cues_when_it_is_done() -> None:
    store = SubtitleStore()
    with store.speaking() as speech_id:
        with pytest.raises(InProgress) as early:
            store.cues(speech_id)
        assert early.value.retry_after_s == 1
        store.keep(speech_id, CUES)
        assert store.cues(speech_id) == CUES
    assert store.cues(speech_id) == CUES


def test_what_ended_without_cues_is_not_found() -> None:
    store = SubtitleStore()
    with store.speaking() as speech_id:
        pass
    with pytest.raises(NotFound, match="10 minutes"):
        store.cues(speech_id)


def test_ids_are_secret_and_differ() -> None:
    store = SubtitleStore()
    ids = set()
    for _ in range(20):
        with store.speaking() as speech_id:
            ids.add(speech_id)
    assert len(ids) == 20
    assert min(map(len, ids)) >= 20


def kept(store: SubtitleStore, number: int) -> list[int]:
    found = []
    for i in range(number):
        try:
            store.cues(str(i))
        except NotFound:
            continue
        found.append(i)
    return found


def test_no_more_are_kept_than_may_be() -> None:
    store = SubtitleStore()
    for number in range(KEPT + 3):
        store.keep(str(number), CUES)
    assert kept(store, KEPT + 3) == list(range(3, KEPT + 3))


def test_long_texts_leave_room_for_fewer_and_one_that_is_too_long_for_none() -> None:
    store = SubtitleStore()
    half = [Cue(0.0, 1.0, "x" * (MAX_CHARS // 2))]
    for number in range(3):
        store.keep(str(number), half)
    store.keep("3", [Cue(0.0, 1.0, "x" * (MAX_CHARS + 1))])
    assert kept(store, 4) == [1, 2]
