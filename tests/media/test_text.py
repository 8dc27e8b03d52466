from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steadyvoice.errors import InvalidInput, TooLarge
from steadyvoice.media.text import MAX_PIECE, Piece, clean, detect_language, split, weight, without_hints

LIMIT = 50_000  # characters, more than any text below has

# What people paste: words in the five scripts, all sorts of punctuation, and what they do not see.
fragments = st.one_of(
    st.sampled_from(
        ["今天", "天气很好", "我哋食咗飯", "こんにちは", "東京", "안녕하세요", "Mr. ", "Dr. ", "e.g. ", "3.14", "1,000", "U.S. "]
    ),
    st.sampled_from(
        ["。", "！", "?", "…", ".", ". ", '." ', "」", ",", "，", "、", "—", ":", ";", "\n", "\n\n", " ", "\t", "(", ")"]
    ),
    st.sampled_from(["\0", "\u200b", "\ufeff", "\ud800", "\u2028", "\u3000", "\x85", "e\u0301", "\u202e", "👍🏽"]),
    st.text("abcdefghijklmnopqrstuvwxyzABCÉü0123456789", min_size=1, max_size=15),
    st.integers(1, 400).map(lambda n: "好" * n),
    st.integers(1, 400).map(lambda n: "x" * n),
)
texts = st.lists(fragments, min_size=1, max_size=40).map("".join)


def cleaned(text: str) -> str:
    try:
        return clean(text, LIMIT)
    except InvalidInput:
        assume(False)
        raise


def pieces(text: str) -> list[str]:
    return [piece.text for piece in split(clean(text, LIMIT))]


def spoken(text: str) -> str:
    """From the first letter or digit to the last: what a voice needs time for."""
    heard = [index for index, c in enumerate(text) if unicodedata.category(c)[0] in "LN"]
    return text[heard[0] : heard[-1] + 1]


# --- cleaning


@settings(max_examples=200, deadline=None)
@given(st.one_of(texts, st.text()))
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    once = cleaned(text)

    assert clean(once, LIMIT) == once


@settings(max_examples=200, deadline=None)
@given(st.one_of(texts, st.text(st.characters(exclude_categories=()))))
def test_a_cleaned_text_can_be_encoded_and_holds_no_control_but_single_newlines(text: str) -> None:
    result = cleaned(text)

    result.encode()
    assert all(c == "\n" or unicodedata.category(c)[0] != "C" for c in result)
    assert "\n\n" not in result
    assert "  " not in result
    assert result == result.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  hello \t world  ", "hello world"),
        ("one\r\ntwo\n\n\n three", "one\ntwo\nthree"),
        ("a\0b", "ab"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("lone \ud83d surrogate", "lone surrogate"),
        ("line\u2028separator", "line separator"),
        ("全角\u3000空格", "全角 空格"),
        ("cafe\u0301", "café"),
        ("\u202eright to left", "right to left"),
        ("\x1b[31mred", "[31mred"),
    ],
)
def test_what_cannot_be_spoken_is_removed(text: str, expected: str) -> None:
    assert clean(text, LIMIT) == expected


@pytest.mark.parametrize(
    "text", ["", " ", "\n\t\r\n", "\0\0", "\u200b\ufeff", "\ud800", "...", "。！？", "—— … ——", '"";:', "👍🎉", "+-*/"]
)
def test_a_text_without_anything_to_say_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="nothing to say") as refused:
        clean(text, LIMIT)
    assert (refused.value.status, refused.value.param) == (422, "text")


@pytest.mark.parametrize("text", ["a", "7", "好", "½", "가", "…好"])
def test_one_letter_or_digit_is_enough_to_say(text: str) -> None:
    assert clean(text, LIMIT) == text


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("２０２４年", "2024年"),
        ("ＡＢＣ", "ABC"),
        ("①。", "1。"),
        ("ｺﾝﾆﾁﾊ", "コンニチハ"),
        ("你好，世界！（好）", "你好，世界！（好）"),
    ],
)
def test_letters_in_another_form_become_what_they_stand_for_and_punctuation_stays(written: str, spoken: str) -> None:
    assert clean(written, LIMIT) == spoken


def test_a_middle_dot_between_chinese_letters_does_not_make_them_japanese() -> None:
    assert [piece.language for piece in split("约翰・史密斯今天来了。")] == ["zh"]


def test_a_text_over_the_limit_is_refused_naming_both_lengths() -> None:
    assert clean("好" * 5_000, 5_000)
    with pytest.raises(TooLarge, match=r"5001 .* 5000") as refused:
        clean("好" * 5_001, 5_000)
    assert (refused.value.status, refused.value.param) == (413, "text")


def test_no_message_repeats_what_the_user_wrote() -> None:
    for text in ("тайна", "тайна" * 20_000):
        with pytest.raises(InvalidInput) as refused:
            split(clean(text, LIMIT))
        assert "тайна" not in refused.value.message


# --- splitting


@settings(max_examples=300, deadline=None)
@given(texts)
def test_the_pieces_together_are_the_whole_text(text: str) -> None:
    whole = cleaned(text)

    assert "".join(piece.text for piece in split(whole)) == whole


@settings(max_examples=200, deadline=None)
@given(texts, st.sampled_from(["zh", "yue", "en", "ja", "ko"]))
def test_a_language_that_is_given_is_kept_and_loses_nothing_either(text: str, language: str) -> None:
    whole = cleaned(text)
    parts = split(whole, language)

    assert "".join(piece.text for piece in parts) == whole
    assert {piece.language for piece in parts} == {language}


@settings(max_examples=300, deadline=None)
@given(texts)
def test_no_piece_takes_longer_to_say_than_the_limit(text: str) -> None:
    for piece in split(cleaned(text)):
        assert weight(spoken(piece.text)) <= MAX_PIECE + 1e-6


@settings(max_examples=200, deadline=None)
@given(texts)
def test_every_piece_has_something_to_say(text: str) -> None:
    assert all(spoken(piece.text) for piece in split(cleaned(text)))


@pytest.mark.parametrize(
    "text",
    [
        "Mr. Smith met Mrs. Jones and Dr. Who at St. Mary.",
        "It costs 3.14 dollars or 1,000,000 in total.",
        "Use version 2.0.1 from example.com today.",
        "Fruit, e.g. apples, i.e. the red ones, etc. is good.",
        "The U.S. and the U.K. agreed.",
        "今天气温是3.5度。",
        "比分是3:2，时间是10:30。",
        "価格は1,500円です。",
    ],
)
def test_abbreviations_and_decimals_do_not_end_a_sentence(text: str) -> None:
    assert pieces(text) == [text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ('He said "Stop." Then he left.', ['He said "Stop." ', "Then he left."]),
        ("One. 2", ["One. ", "2"]),
        ("Really?! Yes... No.", ["Really?! ", "Yes... ", "No."]),
        ("今天天气很好。我们去公园吧！好不好？", ["今天天气很好。", "我们去公园吧！", "好不好？"]),
        ("“你好。”他说。", ["“你好。”", "他说。"]),
        ("こんにちは。お元気ですか？", ["こんにちは。", "お元気ですか？"]),
        ("안녕하세요. 반갑습니다!", ["안녕하세요. ", "반갑습니다!"]),
        ("first line\nsecond line", ["first line\n", "second line"]),
        ("…好。……", ["…好。……"]),
    ],
)
def test_sentences_end_where_a_reader_would_pause(text: str, expected: list[str]) -> None:
    assert pieces(text) == expected


@pytest.mark.parametrize("letter", ["x", "好", "か", "가", "7"])
def test_a_word_of_twenty_thousand_letters_is_cut_where_it_must(letter: str) -> None:
    parts = pieces(letter * 20_000)

    assert "".join(parts) == letter * 20_000
    assert max(weight(part) for part in parts) <= MAX_PIECE + 1e-6
    assert len(parts) <= 2 * weight(letter) * 20_000 / MAX_PIECE


def test_a_long_sentence_is_cut_at_its_commas() -> None:
    clause = "这是一个长句子里的小分句，"
    assert MAX_PIECE % len(clause)

    parts = pieces(clause * 40)

    assert len(parts) > 4
    assert all(part.endswith("，") for part in parts)


def test_a_long_sentence_without_commas_is_cut_between_words() -> None:
    words = "several words that nobody has put a comma between " * 30

    for part in pieces(words)[:-1]:
        assert part.endswith(" ")
        assert set(part.split()) <= set(words.split())


def test_the_estimated_length_grows_with_the_text_and_is_never_zero() -> None:
    assert 0 < Piece("a", "en").seconds < Piece("好" * 10, "zh").seconds < Piece("好" * 20, "zh").seconds


# --- languages


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("The weather is nice today", "en"),
        ("Écoutez", "en"),
        ("今天天气很好", "zh"),
        ("今天天氣很好", "zh"),
        ("你哋食咗飯未呀", "yue"),
        ("我唔知佢喺邊度", "yue"),
        ("こんにちは", "ja"),
        ("カタカナ", "ja"),
        ("東京は大きいです", "ja"),
        ("안녕하세요", "ko"),
        ("大韓民國은 민주공화국이다", "ko"),
        ("打开Windows电脑", "zh"),
        ("123", "en"),
    ],
)
def test_the_language_is_found_from_the_script(text: str, language: str) -> None:
    assert detect_language(text) == language


def test_each_sentence_is_said_in_its_own_language() -> None:
    parts = split("你好。Hello there. 안녕하세요. こんにちは。")

    assert [piece.language for piece in parts] == ["zh", "en", "ko", "ja"]


@pytest.mark.parametrize(("text", "language"), [("これは日本語です。東京。", "ja"), ("我哋去食飯啦。今日天氣好。", "yue")])
def test_a_sentence_of_shared_letters_is_said_in_the_language_of_the_rest(text: str, language: str) -> None:
    assert {piece.language for piece in split(text)} == {language}


def test_a_number_between_two_sentences_is_said_in_their_language() -> None:
    assert {piece.language for piece in split("今天天气很好。123。我们走吧。")} == {"zh"}


@pytest.mark.parametrize(
    ("text", "script"), [("สวัสดี", "Thai"), ("Привет", "Cyrillic"), ("नमस्ते", "Devanagari"), ("مرحبا", "Arabic")]
)
def test_a_script_that_no_voice_reads_is_refused_by_name(text: str, script: str) -> None:
    with pytest.raises(InvalidInput, match=f"{script}.*zh, yue, en, ja, ko") as refused:
        split(clean(text, LIMIT))
    assert refused.value.param == "text"


def test_one_sentence_that_no_voice_reads_refuses_the_text_rather_than_leaving_it_out() -> None:
    with pytest.raises(InvalidInput, match="Thai"):
        split(clean("Hello there. สวัสดี. Good bye.", LIMIT))


def test_a_hint_of_how_to_say_a_word_is_never_cut() -> None:
    text = "He was <going|G OW1 . IH0 NG> home. <行|XING2>，不<行|HANG2>。"

    assert [piece.text for piece in split(clean(text, LIMIT))] == [
        "He was <going|G OW1 . IH0 NG> home. ",
        "<行|XING2>，不<行|HANG2>。",
    ]


def test_a_hint_in_an_endless_sentence_is_not_cut_either() -> None:
    text = " ".join(["<going|G OW1 . IH0 NG>"] * 40)

    parts = split(clean(text, LIMIT))

    assert len(parts) > 1
    assert all(part.text.count("<") == part.text.count(">") for part in parts)


def test_where_less_fits_pieces_are_shorter_and_nothing_is_lost() -> None:
    text = clean("今天天气很好我们去公园散步吧，" * 20, LIMIT)

    parts = split(text, longest_s=8.0)

    assert max(part.seconds for part in parts) <= 8.0
    assert "".join(part.text for part in parts) == text


def test_the_digits_of_a_number_take_as_long_as_the_words_that_they_are() -> None:
    """Two billion, one hundred forty-seven million, … is a sentence of six seconds, and is cut off where two are expected."""
    (number,) = split(clean("2,147,483,647", LIMIT))

    assert 2.0 < number.seconds < 6.0
    assert number.seconds > 2 * Piece("abcdefghijklm", "en").seconds


def test_of_a_hint_one_reads_the_word() -> None:
    assert without_hints("银<行|XING2>很远, <going|G OW1 . IH0 NG> on") == "银行很远, going on"
    assert without_hints("1 < 2 | 3 > 2, <a|>, <|b>") == "1 < 2 | 3 > 2, <a|>, <|b>"


def test_a_row_of_pictures_is_not_taken_for_speech() -> None:
    """Nobody says them, and an answer without them must not be taken for one that is too short."""
    assert weight("好的" + "😀😃😄😁😆🤣😂🎉👍🙏") == pytest.approx(2 + 10 * weight("a"))


def test_a_long_text_full_of_hints_is_split_in_a_time_that_grows_with_it_and_no_faster() -> None:
    text = clean("<行|XING2>. " * 8_000, 100_000)

    began = time.process_time()
    parts = split(text)
    spent = time.process_time() - began

    assert "".join(part.text for part in parts) == text
    assert spent < 2.0  # with a look at every hint for every sentence it is six
