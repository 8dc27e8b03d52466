from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from steadyvoice.media.subtitles import Cue
from steadyvoice.media.text import Piece
from steadyvoice.pages.speech_tables import (
    FIRST_WORDS,
    FOLLOWED_ROWS,
    HISTORY_KEPT,
    MAX_ROWS,
    HistoryEntry,
    first_words,
    history_list,
    remember,
    sentence_table,
)
from steadyvoice.protocol import Speech
from steadyvoice.service.private_folder import FILES_KEPT_S
from steadyvoice.service.speech.result import SpokenSentence

PIECES = [Piece(f"Sentence number {number}. ", "en") for number in range(1, 301)]


def visitor(language: str = "en") -> gr.Request:
    return SimpleNamespace(headers={"accept-language": language}, session_hash="s", client=None)  # type: ignore[return-value]


def spoken(index: int, **flaws: Any) -> SpokenSentence:
    """One sentence of half a second."""
    speech = Speech(np.zeros(500, np.int16), 1_000, **flaws)
    return SpokenSentence(index, len(PIECES), PIECES[index].text, Cue(0, 0.5, ""), speech, False, 0.0, 0.1)


def rows(table: str) -> list[list[str]]:
    body = table.split("<tbody>")[1]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("</tr>")[:-1]]


def test_what_is_not_spoken_yet_is_estimated_at_the_speed_asked_for() -> None:
    seconds = PIECES[0].seconds / 2

    table = sentence_table(PIECES[:2], (), 2.0, "planned", visitor())

    assert rows(table)[0] == ["1", "Sentence number 1.", f"≈\u00a0{round(seconds * 50)}", f"≈\u00a0{seconds:.1f}"]
    assert f"Sentences: 2 · about {round(seconds * 100)} tokens, {2 * seconds:.1f} s" in table


def test_sentences_are_marked_as_they_are_spoken() -> None:
    done = [spoken(0)]

    assert [row[0] for row in rows(sentence_table(PIECES[:3], done, 1.0, "running", visitor()))] == ["✓\u00a01", "▶\u00a02", "3"]
    ended = sentence_table(PIECES[:3], done, 1.0, "ended", visitor("zh"))
    assert [row[0] for row in rows(ended)] == ["✓\u00a01", "–\u00a02", "–\u00a03"]
    assert rows(ended)[0][2:] == ["25", "0.5"]
    assert "已完成 1 / 3 句 · 25 个 token，0.5 秒" in ended


@pytest.mark.parametrize(
    ("flaws", "said"),
    [
        ({"defect": "silent", "retried": True}, "silent, also at a second try"),
        ({"defect": "cut_off", "retried": True}, "cut off at its end"),
        ({"defect": "too_short", "retried": True}, "too short"),
        ({"defect": "unheard_of", "retried": True}, "not as it should be"),
        ({"retried": True}, "good at the second try"),
        ({"reduced": True}, "simpler search"),
    ],
)
def test_what_is_wrong_with_a_sentence_is_said_beside_it_alone(flaws: dict[str, Any], said: str) -> None:
    texts = [row[1] for row in rows(sentence_table(PIECES[:2], [spoken(0), spoken(1, **flaws)], 1.0, "ended", visitor()))]

    assert texts[0] == "Sentence number 1."
    assert said in texts[1]
    assert "<" not in texts[1]


def test_a_long_table_follows_what_is_spoken_and_is_bounded() -> None:
    running = sentence_table(PIECES, [spoken(index) for index in range(100)], 1.0, "running", visitor())
    planned = sentence_table(PIECES, (), 1.0, "planned", visitor())

    assert len(rows(running)) == FOLLOWED_ROWS
    assert "▶\u00a0101" in [row[0] for row in rows(running)][:5]
    assert len(rows(planned)) == MAX_ROWS
    assert f"… and {len(PIECES) - MAX_ROWS} more" in planned


def entry(at: float, text: str = "Hello.", playable: bool = True) -> HistoryEntry:
    return HistoryEntry(at, text, "Emma", 2.0, Path("/files/a b/speech.wav"), playable)


def test_the_history_keeps_the_newest_and_none_whose_file_may_be_gone() -> None:
    history: list[HistoryEntry] = []
    for at in range(HISTORY_KEPT + 5):
        history = remember(history, entry(float(at)))

    assert [e.at for e in history] == [float(at) for at in range(HISTORY_KEPT + 4, 4, -1)]
    late = entry(FILES_KEPT_S + 10.0)
    assert [e.at for e in remember(history, late)] == [late.at, *(e.at for e in history if e.at > 10)]


def test_the_history_tells_the_browsers_time_and_escapes_what_was_typed() -> None:
    shown = history_list([entry(3_600.0, "<i>Hello</i>"), entry(0.0, playable=False)], -480, visitor())

    assert "09:00:00 · Emma · 2.0 s" in shown
    assert "&lt;i&gt;" in shown
    assert "<i>" not in shown
    assert shown.count('src="gradio_api/file=/files/a%20b/speech.wav"') == 1, "what no browser plays has no player"
    assert shown.count('href="gradio_api/file=/files/a%20b/speech.wav"') == 2
    assert history_list([], 0, visitor()) == ""


def test_a_text_is_known_again_by_its_first_words() -> None:
    assert first_words([Piece("One. ", "en"), Piece("Two.", "en")]) == "One. Two."
    assert first_words(PIECES).startswith("Sentence number 1. Sentence number 2. ")
    assert len(first_words(PIECES)) <= FIRST_WORDS + 1
