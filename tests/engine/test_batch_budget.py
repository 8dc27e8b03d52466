from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.engine.batch_budget import RECOVERY, SMALLEST_SHARE, Allowance, Budget
from steadyvoice.protocol.cost import CostModel


def test_a_budget_in_seconds_counts_the_padding() -> None:
    budget = Budget(30.0)

    assert budget.fits(3, 10.0)
    assert not budget.fits(3, 10.1)
    assert budget.longest_s == 30.0


def test_a_budget_in_bytes_counts_what_the_model_was_measured_to_take() -> None:
    budget = Budget(1_000.0, bytes=100.0, cost=CostModel(fixed=10, linear=2, quadratic=1))

    assert budget.cost.bytes(2, 3.0) == 10 + 2 * 3 * 2 + 2 * 9 * 1
    assert budget.fits(2, 3.0)
    assert budget.fits(6, 3.0)  # 10 + 36 + 54: to the byte
    assert not budget.fits(7, 3.0)


@pytest.mark.parametrize("cost", [CostModel(5, 2, 0.5), CostModel(5, 2), CostModel(0, 0, 3)])
def test_the_longest_item_is_the_one_that_just_fits(cost: CostModel) -> None:
    longest = Budget(1e9, 1_000.0, cost).longest_s

    assert cost.bytes(1, longest) == pytest.approx(1_000)


def test_the_longest_item_is_none_or_endless_where_length_does_not_matter() -> None:
    assert CostModel(fixed=10).longest(10.0) == math.inf
    assert CostModel(fixed=10).longest(9.0) == 0.0
    assert Budget(30.0, 10.0, CostModel(fixed=5)).longest_s == 30.0


def test_a_share_of_a_budget_is_a_share_of_both_limits() -> None:
    budget = Budget(30.0, 100.0, CostModel(linear=2))

    assert budget.fits(1, 15.0, share=0.5)
    assert not budget.fits(1, 15.1, share=0.5)
    assert not Budget(1e9, 100.0, CostModel(linear=2)).fits(1, 25.1, share=0.5)


def test_an_allowance_halves_at_once_and_recovers_slowly() -> None:
    allowance = Allowance()

    allowance.halve()
    assert allowance.share == 0.5
    allowance.recover()
    assert allowance.share == 0.5 + RECOVERY
    for _ in range(100):
        allowance.recover()
    assert allowance.share == 1.0
    for _ in range(100):
        allowance.halve()
    assert allowance.share == SMALLEST_SHARE


@given(st.floats(0, 1e9), st.floats(0, 1e8), st.floats(0, 1e7))
def test_a_budget_for_a_full_item_takes_a_full_item(fixed: float, linear: float, quadratic: float) -> None:
    cost = CostModel(fixed, linear, quadratic)
    assert Budget(30.0, cost.bytes(1, 30.0), cost).longest_s == 30.0
