from __future__ import annotations

import pytest

from steadyvoice.worker.recognizers.sensevoice.tags import emotion_of, events_of, language_of


@pytest.mark.parametrize(
    ("tags", "language"),
    [
        (["en", "HAPPY"], "en"),
        (["woitn", "yue"], "yue"),
        (["nospeech"], "nospeech"),
        (["HAPPY", "withitn"], "auto"),
        ([], "auto"),
    ],
)
def test_the_language_is_the_first_that_is_told(tags: list[str], language: str) -> None:
    assert language_of(tags) == language


@pytest.mark.parametrize(
    ("tags", "emotion"),
    [
        (["en", "SAD", "Speech"], "SAD"),
        (["HAPPY", "NEUTRAL"], "NEUTRAL"),  # as FunASR decides between equals
        (["HAPPY", "NEUTRAL", "HAPPY"], "HAPPY"),
        (["EMO_UNKNOWN"], "EMO_UNKNOWN"),
        (["en", "BGM"], None),
    ],
)
def test_the_emotion_is_the_one_that_is_told_most_often(tags: list[str], emotion: str | None) -> None:
    assert emotion_of(tags) == emotion


def test_events_are_what_begins_in_order_and_once() -> None:
    tags = ["en", "HAPPY", "Speech", "withitn", "BGM", "Laughter", "/Laughter", "/BGM", "BGM", "Event_UNK"]

    assert events_of(tags) == ("Speech", "BGM", "Laughter", "Event_UNK")
