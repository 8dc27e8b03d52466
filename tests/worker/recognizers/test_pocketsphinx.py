from __future__ import annotations

from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from steadyvoice.protocol import FloatArray, ItemError, Payload, Recognition, RecognizeItem
from steadyvoice.worker.recognizers.pocketsphinx import PocketsphinxRecognizer
from steadyvoice.worker.registry import load_model

DATA = Path(__file__).resolve().parents[2] / "data"
CLIPS = ["austen-0870", "austen-0890", "austen-0930"]
SAMPLE_RATE = 16_000
HIGHEST_WORD_ERROR_RATE = 0.4


@pytest.fixture(scope="module")
def recognizer() -> PocketsphinxRecognizer:
    return PocketsphinxRecognizer()


@pytest.fixture(scope="module")
def answers(recognizer: PocketsphinxRecognizer) -> dict[str, Recognition]:
    return dict(zip(CLIPS, recognize(recognizer, *(read(clip) for clip in CLIPS)), strict=True))


def read(clip: str) -> FloatArray:
    samples, rate = soundfile.read(DATA / f"{clip}.wav", dtype="float32")
    assert rate == SAMPLE_RATE
    return samples


def recognize(recognizer: PocketsphinxRecognizer, *samples: FloatArray, language: str = "en") -> list[Recognition]:
    outcomes = list(recognizer.run([RecognizeItem(each, language).to_payload() for each in samples]))
    assert all(isinstance(outcome, Payload) for outcome in outcomes)
    return [Recognition.from_payload(outcome) for outcome in outcomes if isinstance(outcome, Payload)]


@pytest.mark.parametrize("clip", CLIPS)
def test_most_words_of_a_read_sentence_are_right(answers: dict[str, Recognition], clip: str) -> None:
    answer = answers[clip]

    spoken = (DATA / f"{clip}.txt").read_text().strip()
    assert jiwer.wer(spoken, answer.text) <= HIGHEST_WORD_ERROR_RATE
    assert answer.language == "en"
    assert (answer.emotion, answer.events) == (None, ())


@pytest.mark.parametrize("clip", CLIPS)
def test_words_have_their_times_in_order_and_within_the_audio(answers: dict[str, Recognition], clip: str) -> None:
    words = answers[clip].words

    edges = [0.0, *(edge for word in words for edge in (word.start, word.end)), len(read(clip)) / SAMPLE_RATE]
    assert len(words) > 5
    assert edges == sorted(edges)
    assert all(word.start < word.end for word in words)


@pytest.mark.parametrize("clip", CLIPS)
def test_the_text_is_its_words_with_no_fillers_and_no_marks(answers: dict[str, Recognition], clip: str) -> None:
    answer = answers[clip]

    assert answer.text == " ".join(word.text for word in answer.words)
    assert all(set(word.text) <= set("abcdefghijklmnopqrstuvwxyz'-._") for word in answer.words)


def test_an_answer_does_not_depend_on_what_came_before(
    recognizer: PocketsphinxRecognizer, answers: dict[str, Recognition]
) -> None:
    loud_noise = np.random.default_rng(0).uniform(-1, 1, SAMPLE_RATE).astype(np.float32)

    after_noise = recognize(recognizer, loud_noise, *(read(clip) for clip in reversed(CLIPS)))[1:]
    (as_the_first,) = recognize(PocketsphinxRecognizer(), read(CLIPS[2]))

    assert after_noise == [answers[clip] for clip in reversed(CLIPS)]
    assert as_the_first == answers[CLIPS[2]]


@pytest.mark.parametrize("language", ["zh", "EN", "english", ""])
def test_an_unknown_language_is_the_callers_mistake_and_harms_no_neighbour(
    recognizer: PocketsphinxRecognizer, language: str
) -> None:
    silence = np.zeros(SAMPLE_RATE, np.float32)
    items = [RecognizeItem(silence, each).to_payload() for each in ("en", language, "auto")]

    first, bad, last = recognizer.run(items)

    assert isinstance(bad, ItemError)
    assert bad.kind == "invalid"
    assert repr(language) in bad.message
    assert "auto, en" in bad.message
    assert isinstance(first, Payload)
    assert isinstance(last, Payload)
    assert first.fields == last.fields


@pytest.mark.parametrize("length", [0, 1, 100, 1_599, 1_600, 1_601, 4_000])
def test_too_little_to_hear_a_word_in_is_an_empty_answer(recognizer: PocketsphinxRecognizer, length: int) -> None:
    (answer,) = recognize(recognizer, np.zeros(length, np.float32))

    assert answer.text == ""
    assert answer.words == ()


def test_what_a_fresh_recognizer_answers_to_silence_is_what_it_answers_later(recognizer: PocketsphinxRecognizer) -> None:
    silence = np.zeros(4_000, np.float32)

    recognize(recognizer, read(CLIPS[0]))

    assert recognize(PocketsphinxRecognizer(), silence) == recognize(recognizer, silence)


def test_samples_beyond_full_scale_do_not_wrap_around(recognizer: PocketsphinxRecognizer) -> None:
    samples = read("austen-0930")

    (answer,) = recognize(recognizer, samples * np.float32(1.2 / np.abs(samples).max()))

    assert jiwer.wer((DATA / "austen-0930.txt").read_text().strip(), answer.text) <= HIGHEST_WORD_ERROR_RATE


def test_answers_come_one_by_one_as_they_are_known(recognizer: PocketsphinxRecognizer) -> None:
    asked: list[int] = []

    class Items(list[Payload]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            for number, item in enumerate(super().__iter__()):
                asked.append(number)
                yield item

    answers = recognizer.run(Items([RecognizeItem(np.zeros(SAMPLE_RATE, np.float32)).to_payload()] * 2))

    next(answers)
    assert asked == [0]


def test_the_engine_is_found_by_its_name_and_says_what_it_is() -> None:
    model = load_model("pocketsphinx", {})

    assert isinstance(model, PocketsphinxRecognizer)
    assert model.info.name == "pocketsphinx"
    assert model.info.revision
    assert model.info.max_batch_items >= 1
