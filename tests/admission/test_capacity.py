from __future__ import annotations

import pytest

from steadyvoice.admission.capacity import Capacity, capacity_for

GB = 10**9


@pytest.mark.parametrize(
    ("total_gb", "concurrency"), [(4, 1), (8, 1), (16, 1), (19.9, 1), (20, 2), (23.5, 2), (25.4, 2), (80, 2), (141, 2)]
)
def test_two_are_worked_on_at_once_on_a_24_gb_card_and_one_on_a_smaller(total_gb: float, concurrency: int) -> None:
    assert capacity_for(None, None, None, int(total_gb * GB)) == Capacity(concurrency, 5)


def test_a_machine_without_a_card_works_on_two_at_once() -> None:
    assert capacity_for(None, None, None, None) == Capacity(concurrency=2, queue_size=5)


@pytest.mark.parametrize(
    ("card_gb", "gpu_memory_gb", "concurrency"), [(80, 8, 1), (80, 24, 2), (8, 24, 1), (None, 8, 1), (None, 24, 2), (80, 20, 2)]
)
def test_a_card_may_be_treated_as_smaller_than_it_is_but_never_as_larger(
    card_gb: int | None, gpu_memory_gb: float, concurrency: int
) -> None:
    assert capacity_for(None, None, gpu_memory_gb, card_gb and card_gb * GB).concurrency == concurrency


@pytest.mark.parametrize("card_gb", [None, 8, 80])
def test_settings_win_over_the_card(card_gb: int | None) -> None:
    assert capacity_for(queue_size=0, concurrency=3, gpu_memory_gb=None, card_bytes=card_gb and card_gb * GB) == Capacity(3, 0)


def test_the_total_is_what_is_worked_on_and_what_waits() -> None:
    assert Capacity(concurrency=2, queue_size=5).total == 7
    assert Capacity(concurrency=1, queue_size=0).total == 1
