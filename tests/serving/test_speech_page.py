from __future__ import annotations

from typing import Any

import pytest

from steadyvoice.errors import InvalidInput
from steadyvoice.serving.speech_page import MAX_SEED, checked_seed, checked_vector


@pytest.mark.parametrize(("given", "seed"), [(None, None), ("", None), (" ", None), ("7", 7), (7, 7), (MAX_SEED, MAX_SEED)])
def test_an_empty_seed_is_none_and_a_number_is_itself(given: Any, seed: int | None) -> None:
    assert checked_seed(given) == seed


@pytest.mark.parametrize("given", ["-1", "1.5", "seven", "²", "1" * 5_000, MAX_SEED + 1, float("nan")])
def test_what_is_no_seed_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInput, match=f"0 to {MAX_SEED}"):
        checked_seed(given)


def test_an_emotion_vector_is_a_list_of_numbers() -> None:
    assert checked_vector(None) is None
    assert checked_vector([0, 0.5]) == [0, 0.5]
    for given in ("happy", {"happy": 1}, [[1]], ["1"], 1):
        with pytest.raises(InvalidInput, match="no list of numbers"):
            checked_vector(given)
