from __future__ import annotations

from typing import Any

import pytest

from steadyvoice.errors import InvalidInput
from steadyvoice.pages.speech_page import MAX_SEED, checked_seed


@pytest.mark.parametrize(
    ("given", "seed"), [(None, None), ("", None), (" ", None), ("7", 7), (7, 7), (7.0, 7), (MAX_SEED, MAX_SEED)]
)
def test_an_empty_seed_is_none_and_a_number_is_itself(given: Any, seed: int | None) -> None:
    assert checked_seed(given) == seed


@pytest.mark.parametrize(
    "given", ["-1", "1.5", "seven", "²", "1" * 5_000, MAX_SEED + 1, float("nan"), float("inf"), True, [7], {"seed": 7}]
)
def test_what_is_no_seed_is_refused(given: Any) -> None:
    with pytest.raises(InvalidInput, match=f"0 to {MAX_SEED}"):
        checked_seed(given)
