from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.media.subtitles import Cue, to_srt, to_vtt

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
