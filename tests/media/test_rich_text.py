from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.media.rich_text import EMOTION_EMOJI, EVENT_EMOJI, RichSegment, funasr_rich_text, join_text, rich_text, separator

EMOJI = str.maketrans(dict.fromkeys("".join([*EMOTION_EMOJI.values(), *EVENT_EMOJI.values()])))


def english(text: str, emotion: str | None = None, *events: str) -> RichSegment:
    return RichSegment(text, "en", emotion, events)


# What users of FunASR's rich_transcription_postprocess know, as tags of each segment and the result.
KNOWN = [
    (
        [("Hello there.", "en", "HAPPY", "Speech"), ("How are you?", "en", "HAPPY", "Speech")],
        "Hello there.How are you?😊",
    ),
    (
        [("甲。", "zh", "HAPPY", "BGM"), ("乙。", "zh", "HAPPY", "BGM"), ("丙。", "zh", "SAD", "Laughter")],
        "🎼甲。乙。😊😀丙。😔",
    ),
    ([("mix", "en", "NEUTRAL", "BGM", "Laughter")], "😀🎼mix"),
    ([("", "nospeech", None, "Event_UNK")], "❓"),
]


@pytest.mark.parametrize(("segments", "known"), KNOWN)
def test_the_view_without_spaces_is_the_one_that_funasr_s_users_know(
    segments: list[tuple[str, str, str | None, str]], known: str
) -> None:
    some = [RichSegment(text, language, emotion, tuple(events)) for text, language, emotion, *events in segments]

    assert funasr_rich_text(some) == known


@pytest.mark.parametrize("events", [("BGM",), ("Applause", "Laughter"), ("Laughter", "BGM"), ("Cry", "Sneeze", "Speech"), ()])
@pytest.mark.parametrize("emotion", ["HAPPY", "SAD", "NEUTRAL", "EMO_UNKNOWN"])
@pytest.mark.parametrize("text", ["Hello there.", ""])
def test_a_lone_segment_looks_as_funasr_shows_it(text: str, emotion: str, events: tuple[str, ...]) -> None:
    from funasr.utils.postprocess_utils import rich_transcription_postprocess

    raw = "".join(f"<|{tag}|>" for tag in ("en", emotion, *events, "withitn")) + text

    assert funasr_rich_text([RichSegment(text, "en", emotion, events)]) == rich_transcription_postprocess(raw)


spoken = st.tuples(
    st.sampled_from(["Hello there.", "甲。", "mix", ""]),
    st.sampled_from(["zh", "en", "ja"]),
    st.sampled_from([*EMOTION_EMOJI, "NEUTRAL", "EMO_UNKNOWN"]),
    st.lists(st.sampled_from(["Speech", "BGM", "Applause", "Laughter", "Cry", "Sneeze"]), max_size=2, unique=True),
)


@given(st.lists(spoken, min_size=1, max_size=6))
def test_any_segments_look_as_funasr_shows_them(some: list[tuple[str, str, str, list[str]]]) -> None:
    from funasr.utils.postprocess_utils import rich_transcription_postprocess

    raw = " ".join(
        "".join(f"<|{tag}|>" for tag in (language, emotion, *events, "withitn")) + text
        for text, language, emotion, events in some
    )
    segments = [RichSegment(text, language, emotion, tuple(events)) for text, language, emotion, events in some]

    assert funasr_rich_text(segments) == rich_transcription_postprocess(raw)


def test_silence_that_the_model_was_sure_of_shows_nothing() -> None:
    assert rich_text([RichSegment("", "nospeech", "EMO_UNKNOWN", ("Event_UNK",))]) == ""


def test_events_stand_before_a_segment_and_its_emotion_after() -> None:
    assert rich_text([english("hello", "HAPPY", "BGM", "Applause")]) == "👏🎼hello😊"


def test_an_emotion_that_goes_on_is_shown_once_at_its_end() -> None:
    assert rich_text([english("one", "HAPPY"), english("two", "HAPPY"), english("three", "SAD")]) == "one two😊 three😔"


def test_an_event_that_goes_on_is_shown_once_at_its_beginning() -> None:
    assert rich_text([english("one", None, "BGM"), english("two", None, "BGM"), english("three")]) == "🎼one two three"


def test_an_emotion_or_event_that_comes_back_is_shown_again() -> None:
    segments = [english("one", "HAPPY", "BGM"), english("two"), english("three", "HAPPY", "BGM")]

    assert rich_text(segments) == "🎼one😊 two 🎼three😊"


@pytest.mark.parametrize("emotion", [None, "NEUTRAL", "EMO_UNKNOWN", ""])
def test_an_emotion_without_a_face_leaves_the_text_alone(emotion: str | None) -> None:
    assert rich_text([english("hello", emotion, "Speech", "Unknown")]) == "hello"


def test_a_text_that_ends_in_the_same_face_keeps_its_own() -> None:
    assert rich_text([english("he wrote 😊", "HAPPY"), english("and left", "HAPPY")]) == "he wrote 😊 and left😊"


def test_no_segments_are_no_text() -> None:
    assert rich_text([]) == ""
    assert rich_text([english("")]) == ""


@pytest.mark.parametrize(("language", "joined"), [("zh", "ab"), ("yue", "ab"), ("ja", "ab"), ("en", "a b"), ("ko", "a b")])
def test_a_space_stands_between_segments_where_the_language_writes_one(language: str, joined: str) -> None:
    assert join_text([("a", language), ("b", language)]) == joined


def test_segments_without_text_leave_no_space_behind() -> None:
    assert join_text([("", "en"), ("one", "en"), ("", "en"), ("two", "en"), ("", "en")]) == "one two"


def test_nothing_stands_before_the_first_segment() -> None:
    assert separator("", "en") == ""
    assert separator("one", "en") == " "
    assert separator("一", "zh") == ""


segments = st.builds(
    RichSegment,
    st.text("abc 你好", max_size=5),
    st.sampled_from(["zh", "en", "ja", "ko", "yue"]),
    st.sampled_from([None, "NEUTRAL", *EMOTION_EMOJI]),
    st.lists(st.sampled_from(["Speech", *EVENT_EMOJI]), max_size=3).map(tuple),
)


@given(st.lists(segments, max_size=12))
def test_without_its_emoji_the_view_is_every_letter_of_the_text_in_order(some: list[RichSegment]) -> None:
    plain = "".join(segment.text for segment in some)

    assert rich_text(some).translate(EMOJI).replace(" ", "") == plain.replace(" ", "")


@given(st.lists(segments, max_size=12))
def test_as_many_faces_are_shown_as_there_are_runs_of_an_emotion(some: list[RichSegment]) -> None:
    faces = [EMOTION_EMOJI.get(segment.emotion or "", "") for segment in some]
    runs = [face for before, face in zip(["", *faces], faces, strict=False) if face and face != before]

    assert [c for c in rich_text(some) if c in EMOTION_EMOJI.values()] == runs
