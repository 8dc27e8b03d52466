from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.worker.profile import MARGIN, SHAPES, Point, cost_of, fit

KEY = {"engine": "sensevoice", "precision": "int8", "device": "cpu"}


def points(fixed: float, linear: float, quadratic: float) -> list[Point]:
    return [(items, s, round(fixed + linear * items * s + quadratic * items * s**2)) for items, s in SHAPES]


def predicted(cost: tuple[float, float, float], items: int, seconds: float) -> float:
    return cost[0] + cost[1] * items * seconds + cost[2] * items * seconds**2


@pytest.mark.parametrize("true", [(1e6, 2e6, 3e5), (5e7, 1e6, 0), (0, 0, 1e5), (1e6, 0, 0)])
def test_the_formula_is_found_again_but_for_the_margin(true: tuple[float, float, float]) -> None:
    assert fit(points(*true)) == pytest.approx([MARGIN * value for value in true], rel=1e-3, abs=10)


@given(st.lists(st.integers(0, 10**10), min_size=len(SHAPES), max_size=len(SHAPES)))
def test_whatever_was_measured_is_covered_and_no_term_is_negative(used: list[int]) -> None:
    measured = [(items, seconds, size) for (items, seconds), size in zip(SHAPES, used, strict=True)]

    cost = fit(measured)

    assert min(cost) >= 0
    for items, seconds, size in measured:
        assert predicted(cost, items, seconds) >= size


def test_a_measurement_is_kept_and_not_made_again(tmp_path: Path) -> None:
    first = cost_of(KEY, tmp_path, lambda: points(1e6, 2e6, 0))

    def never() -> list[Point]:
        raise AssertionError("measured again")

    assert cost_of(KEY, tmp_path, never) == first


@pytest.mark.parametrize("change", [{"precision": "fp32"}, {"device": "NVIDIA H200"}, {"revision": "2"}])
def test_another_device_model_or_precision_is_measured_anew(tmp_path: Path, change: dict[str, str]) -> None:
    cost_of(KEY, tmp_path, lambda: points(1e6, 2e6, 0))

    assert cost_of({**KEY, **change}, tmp_path, lambda: points(0, 1e6, 0)) == fit(points(0, 1e6, 0))


@pytest.mark.parametrize("damage", ["", "{", '{"key": 1}', "[]", '{"cost": [1, 2]}'])
def test_a_damaged_file_costs_only_the_time_to_measure(tmp_path: Path, damage: str) -> None:
    expected = cost_of(KEY, tmp_path, lambda: points(1e6, 2e6, 0))
    (file,) = tmp_path.iterdir()
    file.write_text(damage)

    assert cost_of(KEY, tmp_path, lambda: points(1e6, 2e6, 0)) == expected
    assert json.loads(file.read_text())["cost"] == list(expected)


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    assert cost_of(KEY, tmp_path / "file" / "folder", lambda: points(1e6, 2e6, 0)) == fit(points(1e6, 2e6, 0))
