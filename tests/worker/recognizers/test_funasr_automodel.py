from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from steadyvoice.protocol import FloatArray, ItemError, Payload, Recognition, RecognizeItem, Word
from steadyvoice.worker.recognizers.funasr_automodel import FunasrRecognizer, parse

RATE = 16_000


def noise(samples: int) -> FloatArray:
    return np.random.default_rng(0).normal(0, 0.1, samples).astype(np.float32)


def test_equal_calls_have_equal_answers_since_no_noise_is_added(funasr_on_random: FunasrRecognizer) -> None:
    item = RecognizeItem(noise(RATE))

    assert funasr_on_random.generate(item)["text"] == funasr_on_random.generate(item)["text"]


def test_one_caller_s_options_are_not_the_next_one_s(funasr_on_random: FunasrRecognizer) -> None:
    plain, other = RecognizeItem(noise(RATE), "auto", False), RecognizeItem(noise(RATE), "zh", True)
    before = funasr_on_random.generate(plain)["text"]

    between = funasr_on_random.generate(other)["text"]

    assert funasr_on_random.generate(plain)["text"] == before != between


@pytest.mark.parametrize("samples", [0, 1, 399, 400])
def test_what_kills_its_front_end_is_answered(funasr_on_random: FunasrRecognizer, samples: int) -> None:
    (outcome,) = funasr_on_random.run([RecognizeItem(noise(samples)).to_payload()])

    assert isinstance(outcome, Payload)


def test_a_bad_item_harms_no_other(funasr_on_random: FunasrRecognizer) -> None:
    good = RecognizeItem(noise(RATE)).to_payload()
    unknown = RecognizeItem(noise(RATE), "tlh").to_payload()
    broken = RecognizeItem(np.array([np.inf] * RATE, np.float32)).to_payload()

    first, second, third, fourth = funasr_on_random.run([unknown, good, broken, good])

    assert isinstance(first, ItemError)
    assert "tlh" in first.message
    assert isinstance(third, ItemError)
    assert "not numbers" in third.message
    assert second == fourth


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ({}, Recognition("", "auto")),
        ({"text": "欢迎 大家"}, Recognition("欢迎 大家", "auto")),
        (
            {"text": "<|en|><|HAPPY|><|Speech|><|withitn|>Hello there."},
            Recognition("Hello there.", "en", "HAPPY", ("Speech",)),
        ),
        (
            {"text": "欢 迎", "timestamp": [[90, 330], [330, 510]]},
            Recognition("欢 迎", "auto", words=(Word("欢", 0.09, 0.33), Word("迎", 0.33, 0.51))),
        ),
        # Times that belong to other words are worse than none.
        ({"text": "one two three", "timestamp": [[0, 100]]}, Recognition("one two three", "auto")),
    ],
)
def test_an_answer_of_automodel_becomes_fields(result: dict[str, Any], answer: Recognition) -> None:
    assert parse(result) == answer
