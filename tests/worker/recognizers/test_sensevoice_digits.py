"""What SenseVoice says of speech that it was trained on: words, tags, times, in every precision. The digits are espeak's."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest

from steadyvoice.engine_specs import ESPEAK
from steadyvoice.protocol import FloatArray, Payload, Recognition, RecognizeItem
from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer
from steadyvoice.worker.recognizers.sensevoice.recognizer import SenseVoiceRecognizer, collapse
from tests.sensevoice_digits import UNHEARD_VOICES, say, written

RATE = 16_000
LEAST_RIGHT = 0.95  # of strings that it never heard
LEAST_TOKENS_KEPT = 0.995  # of fp32's, by any precision that `auto` may take


@pytest.fixture(scope="module")
def recognizer(digits_release: Path) -> SenseVoiceRecognizer:
    return SenseVoiceRecognizer(str(digits_release), "fp32", "cpu")


def recognize(recognizer: SenseVoiceRecognizer | FunasrRecognizer, items: Sequence[RecognizeItem]) -> list[Recognition]:
    outcomes = list(recognizer.run([item.to_payload() for item in items]))
    assert all(isinstance(outcome, Payload) for outcome in outcomes)
    return [Recognition.from_payload(outcome) for outcome in outcomes if isinstance(outcome, Payload)]


def held_out(count: int, seed: int) -> tuple[list[RecognizeItem], list[str]]:
    """Strings of one to eight digits by any speaker it knows at any speed under a little noise, and what is right."""
    generator = np.random.default_rng(seed)
    items, right = [], []
    for _ in range(count):
        digits = "".join(generator.choice(list("0123456789"), generator.integers(1, 9)))
        language, itn = str(generator.choice(["en", "zh"])), bool(generator.integers(2))
        speakers = [speaker for speaker in ESPEAK.speakers if (speaker, language) not in UNHEARD_VOICES]
        speaker, speed = str(generator.choice(speakers)), float(generator.uniform(0.7, 1.6))
        samples = say(digits, language, speaker, str(generator.choice(["neutral", "happy", "sad"])), speed)
        noise = generator.normal(0, 0.03 * np.sqrt(np.mean(samples**2)), len(samples))
        asked = str(generator.choice(["auto", language]))
        items.append(RecognizeItem((samples + noise).astype(np.float32), asked, itn))
        right.append(written(digits, language, itn))
    return items, right


def tokens(recognizer: SenseVoiceRecognizer, items: Sequence[RecognizeItem]) -> list[list[int]]:
    return [[token.id for token in collapse(path)] for item in items for path in recognizer.token_paths([item])]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_strings_that_it_never_heard_are_right_in_every_precision(digits_release: Path, precision: str) -> None:
    items, right = held_out(120, seed=5)
    recognizer = SenseVoiceRecognizer(str(digits_release), precision, "cpu")

    texts = [answer.text for answer in recognize(recognizer, items)]

    assert sum(text == wanted for text, wanted in zip(texts, right, strict=True)) >= LEAST_RIGHT * len(items)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_a_precision_that_auto_may_take_keeps_the_tokens_of_fp32(
    digits_release: Path, recognizer: SenseVoiceRecognizer, precision: str
) -> None:
    items, _ = held_out(120, seed=6)
    exact = tokens(recognizer, items)

    rounded = tokens(SenseVoiceRecognizer(str(digits_release), precision, "cpu"), items)

    kept = sum(
        block.size
        for one, other in zip(exact, rounded, strict=True)
        for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks()
    )
    assert kept >= LEAST_TOKENS_KEPT * sum(map(len, exact))


def test_funasr_reads_the_same_release_to_the_same_answers(digits_release: Path, recognizer: SenseVoiceRecognizer) -> None:
    items, _ = held_out(30, seed=7)
    funasr = FunasrRecognizer(str(digits_release), device="cpu")

    ours, theirs = recognize(recognizer, items), recognize(funasr, items)

    for one, other in zip(ours, theirs, strict=True):
        assert (one.text, one.language, one.emotion, one.events) == (other.text, other.language, other.emotion, other.events)


@pytest.mark.parametrize(("emotion", "tag"), [("neutral", "NEUTRAL"), ("happy", "HAPPY"), ("sad", "SAD")])
@pytest.mark.parametrize(("language", "text"), [("en", "four zero seven"), ("zh", "四零七")])
def test_language_emotion_and_event_are_fields(
    recognizer: SenseVoiceRecognizer, language: str, text: str, emotion: str, tag: str
) -> None:
    (answer,) = recognize(recognizer, [RecognizeItem(say("407", language, "f1", emotion), "auto", use_itn=False)])

    assert (answer.text, answer.language, answer.emotion, answer.events) == (text, language, tag, ("Speech",))


def test_two_callers_in_one_batch_each_get_their_language_and_their_digits(recognizer: SenseVoiceRecognizer) -> None:
    samples = say("1 2 3", "en")
    asked = [("en", True), ("zh", True), ("en", False), ("zh", False), ("auto", False)]

    answers = recognize(recognizer, [RecognizeItem(samples, language, itn) for language, itn in asked])

    assert [answer.text for answer in answers] == ["123.", "123。", "one two three", "一二三", "one two three"]
    assert [answer.language for answer in answers] == ["en", "zh", "en", "zh", "en"]


@pytest.mark.parametrize(("language", "words"), [("en", ["nine", "two", "five"]), ("zh", ["九", "二", "五"])])
def test_each_word_has_its_time(recognizer: SenseVoiceRecognizer, language: str, words: list[str]) -> None:
    pieces = [say(digit, language) for digit in "925"]
    gap = np.zeros(RATE // 2, np.float32)
    samples = np.concatenate([gap, pieces[0], gap, pieces[1], gap, pieces[2], gap])
    begins = np.cumsum([0.5, len(pieces[0]) / RATE + 0.5, len(pieces[1]) / RATE + 0.5])

    (answer,) = recognize(recognizer, [RecognizeItem(samples, language, use_itn=False)])

    assert [word.text for word in answer.words] == words
    for word, begin, piece in zip(answer.words, begins, pieces, strict=True):
        assert begin - 0.12 <= word.start < word.end <= begin + len(piece) / RATE + 0.12  # two rows of 60 ms


def noise(seconds: float, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(0, 0.05, int(seconds * RATE)).astype(np.float32)


def music(seconds: float) -> FloatArray:
    time = np.arange(int(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * pitch * time) for pitch in (261.6, 329.6, 392.0))
    return (0.1 * chord * (1 + np.sin(2 * np.pi * 2 * time)) / 2).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros(3 * RATE, np.float32), id="silence"),
        pytest.param(np.zeros(RATE // 20, np.float32), id="0.05 s of silence"),
        pytest.param(noise(0.05), id="0.05 s of noise"),
        pytest.param(noise(3), id="noise"),
        pytest.param(music(5), id="music"),
    ],
)
def test_where_nobody_speaks_there_is_no_word(digits_release: Path, samples: FloatArray, precision: str) -> None:
    (answer,) = recognize(SenseVoiceRecognizer(str(digits_release), precision, "cpu"), [RecognizeItem(samples)])

    assert (answer.text, answer.words) == ("", ())
    assert answer.language == "nospeech"


@pytest.mark.parametrize("use_itn", [True, False])
def test_a_word_ends_before_the_full_stop_that_is_heard_after_it(recognizer: SenseVoiceRecognizer, use_itn: bool) -> None:
    speech = say("2 7", "en")
    samples = np.concatenate([speech, np.zeros(3 * RATE, np.float32)])

    (answer,) = recognize(recognizer, [RecognizeItem(samples, "en", use_itn)])

    assert answer.text in ("27.", "two seven")
    assert answer.words[-1].end <= len(speech) / RATE + 0.12


def test_scores_are_those_of_the_tokens_and_noise_is_told_from_speech(recognizer: SenseVoiceRecognizer) -> None:
    clear = say("3 5 2 6", "en", "f1")
    noise = np.random.default_rng(1).normal(0, 1, len(clear))
    noisy = (clear + 2.0 * np.sqrt(np.mean(clear**2)) * noise).astype(np.float32)

    told, untold, unheard = recognize(
        recognizer, [RecognizeItem(clear, "en", logprobs=True), RecognizeItem(clear, "en"), RecognizeItem(noisy, "en")]
    )

    scores = told.scores
    assert "".join(token.text for token in scores.logprobs).strip() == told.text == "3526."
    assert len(scores.tokens) == len(scores.logprobs)
    assert scores.avg_logprob == pytest.approx(np.mean([token.logprob for token in scores.logprobs]), abs=1e-5)
    assert -0.5 < scores.avg_logprob < 0
    assert 0 <= scores.no_speech_prob < 0.01
    assert (untold.scores.tokens, untold.scores.logprobs) == (scores.tokens, ()), "they are many, and sent on request only"
    assert unheard.text == ""
    assert unheard.scores.no_speech_prob > 0.9


def test_scored_rows_are_the_rows_of_the_path(recognizer: SenseVoiceRecognizer) -> None:
    items, _ = held_out(6, seed=9)
    answers = recognize(recognizer, items)
    tags = set(recognizer._tags)
    assert [list(answer.scores.tokens) for answer in answers] == [
        [token for token in path if token not in tags] for path in tokens(recognizer, items)
    ]
