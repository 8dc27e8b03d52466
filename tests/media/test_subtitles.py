from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.media.subtitles import MAX_CUE_COLUMNS, MAX_CUE_S, Cue, columns, cues_of, to_srt, to_vtt, word_cues
from steadyvoice.protocol import Word

CLOCK = re.compile(r"(\d{2,}):([0-5]\d):([0-5]\d)([,.])(\d{3})")
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
cues = st.lists(st.builds(Cue, st.floats(0, 400_000), st.floats(0, 400_000), texts), max_size=5)


def test_srt_numbers_its_cues_and_writes_a_comma_before_the_milliseconds() -> None:
    assert to_srt([Cue(0, 1.5, "one"), Cue(61.25, 3_661.001, "two")]) == (
        "1\n00:00:00,000 --> 00:00:01,500\none\n\n2\n00:01:01,250 --> 01:01:01,001\ntwo\n\n"
    )


def test_vtt_opens_with_its_name_and_writes_a_point_before_the_milliseconds() -> None:
    assert to_vtt([Cue(0, 1.5, "one"), Cue(61.25, 3_661.001, "two")]) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\none\n\n00:01:01.250 --> 01:01:01.001\ntwo\n\n"
    )


def test_no_cues_are_an_empty_file_that_players_accept() -> None:
    assert to_srt([]) == ""
    assert to_vtt([]) == "WEBVTT\n\n"


@pytest.mark.parametrize(
    ("seconds", "clock"),
    [
        (0.0004, "00:00:00,000"),
        (0.9996, "00:00:01,000"),
        (59.9996, "00:01:00,000"),
        (3_599.9999, "01:00:00,000"),
        (-0.2, "00:00:00,000"),
        (86_400.0, "24:00:00,000"),
        (360_000.0, "100:00:00,000"),
    ],
)
def test_rounding_carries_into_seconds_minutes_and_hours(seconds: float, clock: str) -> None:
    assert to_srt([Cue(seconds, seconds, "x")]).splitlines()[1] == f"{clock} --> {clock}"


@given(st.floats(0, 400_000))
def test_a_clock_is_right_to_the_millisecond(seconds: float) -> None:
    hours, minutes, whole, _, milliseconds = CLOCK.findall(to_vtt([Cue(seconds, seconds, "x")]))[0]

    assert int(hours) * 3_600 + int(minutes) * 60 + int(whole) + int(milliseconds) / 1_000 == pytest.approx(seconds, abs=0.00051)


@given(cues)
def test_no_text_can_end_its_cue_or_begin_another_in_vtt(some: list[Cue]) -> None:
    file = to_vtt(some)

    assert len(re.findall("-->", file)) == len(some)
    assert len(re.findall(r"^\d.* --> \d.*$", file, re.MULTILINE)) == len(some)
    body = file.removeprefix("WEBVTT\n\n")
    assert "<" not in body
    assert ">" not in body.replace("-->", "")


@given(cues)
def test_no_text_holds_an_empty_line_that_would_end_its_cue(some: list[Cue]) -> None:
    for cue in some:
        lines = to_srt([Cue(cue.start, cue.end, cue.text)]).removesuffix("\n\n").split("\n")[2:]

        assert lines == [""] or all(line.strip() for line in lines)


@pytest.mark.parametrize("text", ["a\n\nb", "a\r\n\r\nb", "a\n \t\nb", "\na\nb\n\n"])
def test_empty_lines_of_a_text_are_left_out(text: str) -> None:
    assert to_srt([Cue(0, 1, text)]) == "1\n00:00:00,000 --> 00:00:01,000\na\nb\n\n"


def test_vtt_escapes_what_would_be_markup() -> None:
    assert "\n&lt;b&gt; R&amp;D --&gt;\n" in to_vtt([Cue(0, 1, "<b> R&D -->")])


def test_srt_keeps_a_text_as_it_is() -> None:
    assert "\n<b> R&D 你好\n" in to_srt([Cue(0, 1, "<b> R&D 你好")])


def timed(text: str, each_s: float = 0.4) -> list[Word]:
    """The words of a text without punctuation, one right after the other."""
    return [Word(word, i * each_s, (i + 1) * each_s) for i, word in enumerate(re.findall(r"[a-z0-9']+|[一-鿿]", text))]


def test_a_short_sentence_is_one_cue_from_its_first_word_to_its_last() -> None:
    assert cues_of(Cue(0, 9, "well, yes!"), [Word("well", 1, 1.5), Word("yes", 1.6, 2)]) == [Cue(1, 2, "well, yes!")]


def test_a_cue_ends_with_its_sentence() -> None:
    text = "it rains. we stay! 好。走"

    assert [cue.text for cue in cues_of(Cue(0, 9, text), timed(text))] == ["it rains.", "we stay!", "好。", "走"]


def test_a_cue_ends_at_a_pause() -> None:
    words = [Word("one", 0, 0.5), Word("two", 0.6, 1), Word("three", 2.5, 3)]

    assert cues_of(Cue(0, 3, "one two three"), words) == [Cue(0, 1, "one two"), Cue(2.5, 3, "three")]


@pytest.mark.parametrize("text", ["word " * 100, "字" * 150])
def test_no_cue_is_longer_or_wider_than_can_be_read(text: str) -> None:
    cues = cues_of(Cue(0, 60, text), timed(text))

    assert len(cues) > 5
    assert all(cue.end - cue.start <= MAX_CUE_S + 1e-9 and columns(cue.text) <= MAX_CUE_COLUMNS for cue in cues)


@pytest.mark.parametrize("words", [[], [Word("other", 0, 1)], [Word("two", 0, 1), Word("one", 1, 2)]])
def test_without_words_of_its_own_a_segment_is_one_cue(words: list[Word]) -> None:
    assert cues_of(Cue(0, 3, "one two"), words) == [Cue(0, 3, "one two")]


def test_a_segment_without_text_is_no_cue() -> None:
    assert cues_of(Cue(0, 3, ""), []) == []


@given(st.lists(st.sampled_from(["a", "b1", "c,", "d.", "好", "吗？", "!", " "]), max_size=60), st.floats(0.01, 3))
def test_every_letter_is_in_one_cue_and_in_order(parts: list[str], each_s: float) -> None:
    text = " ".join(parts).strip()

    cues = cues_of(Cue(0, 1e3, text), timed(text, each_s))

    assert "".join(cue.text for cue in cues).replace(" ", "") == text.replace(" ", "")
    assert [cue.start for cue in cues] == sorted(cue.start for cue in cues)


def test_subtitles_word_by_word_have_a_cue_for_each() -> None:
    assert word_cues([Word("one", 0, 0.5), Word("two", 0.6, 1)]) == [Cue(0, 0.5, "one"), Cue(0.6, 1, "two")]
