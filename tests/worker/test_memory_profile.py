from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadyvoice.engine.batch_budget import Budget
from steadyvoice.protocol import Items, MemoryPlan, ModelInfo, Outcome, Payload
from steadyvoice.protocol.cost import CostModel
from steadyvoice.worker.device import Device
from steadyvoice.worker.device_sharing import SharedDevice
from steadyvoice.worker.memory_profile import MARGIN, Point, budget_of, cost_of, fit, sweep
from steadyvoice.worker.memory_profile import SHAPES as PARTS

SHAPES = [(items, part * 30.0) for items, part in PARTS]
KEY = {"engine": "sensevoice", "precision": "int8", "device": "cpu"}


def points(fixed: float, linear: float, quadratic: float) -> list[Point]:
    return [(items, s, round(fixed + linear * items * s + quadratic * items * s**2)) for items, s in SHAPES]


@pytest.mark.parametrize("true", [(1e6, 2e6, 3e5), (5e7, 1e6, 0), (0, 0, 1e5), (1e6, 0, 0)])
def test_the_formula_is_found_again_but_for_the_margin(true: tuple[float, float, float]) -> None:
    assert astuple(fit(points(*true))) == pytest.approx([MARGIN * value for value in true], rel=1e-3, abs=10)


@given(st.lists(st.integers(0, 10**10), min_size=len(SHAPES), max_size=len(SHAPES)))
def test_whatever_was_measured_is_covered_and_no_term_is_negative(used: list[int]) -> None:
    measured = [(items, seconds, size) for (items, seconds), size in zip(SHAPES, used, strict=True)]

    cost = fit(measured)

    assert min(astuple(cost)) >= 0
    for items, seconds, size in measured:
        assert cost.bytes(items, seconds) >= size


def test_a_measurement_is_kept_and_not_made_again(tmp_path: Path) -> None:
    first = cost_of(KEY, tmp_path, lambda: (points(1e6, 2e6, 0), True))

    def never() -> tuple[list[Point], bool]:
        raise AssertionError("measured again")

    assert cost_of(KEY, tmp_path, never) == first


@pytest.mark.parametrize("change", [{"precision": "fp32"}, {"device": "NVIDIA H200"}, {"revision": "2"}])
def test_another_device_model_or_precision_is_measured_anew(tmp_path: Path, change: dict[str, str]) -> None:
    cost_of(KEY, tmp_path, lambda: (points(1e6, 2e6, 0), True))

    assert cost_of({**KEY, **change}, tmp_path, lambda: (points(0, 1e6, 0), True)) == fit(points(0, 1e6, 0))


@pytest.mark.parametrize("damage", ["", "{", '{"key": 1}', "[]", '{"cost": [1, 2]}'])
def test_a_damaged_file_costs_only_the_time_to_measure(tmp_path: Path, damage: str) -> None:
    expected = cost_of(KEY, tmp_path, lambda: (points(1e6, 2e6, 0), True))
    (file,) = tmp_path.iterdir()
    file.write_text(damage)

    assert cost_of(KEY, tmp_path, lambda: (points(1e6, 2e6, 0), True)) == expected
    assert json.loads(file.read_text())["cost"] == list(astuple(expected))


def test_a_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    assert cost_of(KEY, tmp_path / "file" / "folder", lambda: (points(1e6, 2e6, 0), True)) == fit(points(1e6, 2e6, 0))


# --- the budget that follows


MB = 1_000_000


class MeasurableModel:
    info = ModelInfo("measurable", "1", 8)

    def example(self, seconds: float) -> Payload:
        return Payload({"seconds": seconds})

    def run(self, items: Items) -> Iterator[Outcome]:
        yield from items


class DeviceOfKnownSize(Device):
    """One that holds 500 MB, has 300 MB free, and whose batches take 1 MB and 2 MB per second."""

    bounded = 0
    trimmed = False

    def held(self) -> int:
        return 500 * MB

    def free(self) -> int:
        return 300 * MB

    def start_measuring(self) -> None:
        self.shapes = iter(SHAPES) if not hasattr(self, "shapes") else self.shapes

    def used(self) -> int:
        items, seconds = next(self.shapes)
        return round(MB + 2 * MB * items * seconds)

    def trim(self) -> None:
        self.trimmed = True

    def bound(self, limit: int) -> None:
        self.bounded = limit


class DeviceSharedWith(SharedDevice):
    def __init__(self, others: int) -> None:
        super().__init__(None)
        self.others, self.claimed = others, 0

    def claimed_by_others(self, device: str) -> int:
        return self.others

    def claim(self, size: int, device: str) -> None:
        self.claimed = size


NEED = MARGIN * (1 + 30 * 2) * MB  # of a batch of 30 padded seconds


@pytest.mark.parametrize(
    ("plan", "others", "expected"),
    [
        (MemoryPlan(padded_s=30.0), 0, NEED),  # no more than a batch can come to
        (MemoryPlan(padded_s=30.0, reserve=250 * MB), 0, 50 * MB),  # what is free but for the reserve
        (MemoryPlan(padded_s=30.0, limit=540 * MB), 0, 40 * MB),  # what is allowed but for the model
        (MemoryPlan(padded_s=30.0, reserve=100 * MB), 170 * MB, 30 * MB),  # and never what another has claimed
    ],
)
def test_a_budget_is_what_a_batch_needs_and_what_there_is_for_it(plan: MemoryPlan, others: int, expected: float) -> None:
    device, shared = DeviceOfKnownSize(), DeviceSharedWith(others)

    budget = budget_of(MeasurableModel(), device, shared, plan, dict(KEY))

    assert budget is not None
    assert budget.bytes == pytest.approx(expected, rel=0.01)
    assert shared.claimed == pytest.approx(expected, rel=0.01)
    assert 500 * MB + expected <= device.bounded + 1 <= 1.2 * (500 * MB + expected)
    assert device.bounded <= (plan.limit or 800 * MB)
    assert budget.recycle_bytes >= 500 * MB + expected


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        (298, r"beside the model's 500 MB there are 2 MB for a batch, and one of one second takes 3 MB"),
        (300, r"beside the model's 500 MB there are 0 MB for a batch"),
        (400, r"beside the model's 500 MB there are 0 MB for a batch"),
    ],
)
def test_a_device_on_which_not_one_second_fits_is_out_of_memory(others: int, reason: str) -> None:
    with pytest.raises(MemoryError, match=reason):
        budget_of(MeasurableModel(), DeviceOfKnownSize(), DeviceSharedWith(others * MB), MemoryPlan(padded_s=30.0), dict(KEY))


def test_a_model_that_knows_its_cost_is_not_measured() -> None:
    class Model:
        info, cost = MeasurableModel.info, CostModel(MB, 2 * MB)

    budget = budget_of(Model(), DeviceOfKnownSize(), DeviceSharedWith(0), MemoryPlan(padded_s=30.0), dict(KEY))  # type: ignore[arg-type]

    assert budget is not None
    assert (budget.cost, budget.bytes) == (CostModel(MB, 2 * MB), 61 * MB)


def test_measuring_ends_before_what_would_not_fit() -> None:
    ran, complete = sweep(MeasurableModel(), DeviceOfKnownSize(), SHAPES, room=30 * MB)

    assert [(items, seconds) for items, seconds, _ in ran] == SHAPES[:3]  # 30 s would take 61 MB
    assert not complete


def test_where_not_even_the_first_shape_fits_nothing_larger_is_tried() -> None:
    ran, complete = sweep(MeasurableModel(), DeviceOfKnownSize(), SHAPES, room=2 * MB)

    assert [(items, seconds) for items, seconds, _ in ran] == SHAPES[:1]  # 1 s takes 3 MB
    assert not complete


class CardThatRefuses(DeviceOfKnownSize):
    """As torch: whatever would pass the bound is out of memory, and so is more than there is room for."""

    limit, peak = 10**12, 0

    def free(self) -> int:
        return 10_000 * MB

    def start_measuring(self) -> None:
        self.peak = 0

    def used(self) -> int:
        return self.peak

    def bound(self, limit: int) -> None:
        self.limit = limit


Law = Callable[[int, float], float]
LAWS: dict[str, Law] = {
    "linear": lambda items, s: 10 * items * s,
    "with a fixed part": lambda items, s: 8 + 2 * items * s,
    "quadratic": lambda items, s: 5 + 0.05 * items * s + 0.15 * items * s**2,
}


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("room", [13, 20, 50, 79, 85, 150, 200, 340])
def test_what_did_not_fit_when_it_was_tried_is_not_let_in_later(law: Law, room: int, tmp_path: Path) -> None:
    card = CardThatRefuses()
    refused = False

    class Model(MeasurableModel):
        def run(self, items: Items) -> Iterator[Outcome]:
            nonlocal refused
            need = round(law(len(items), items[0].fields["seconds"]) * MB)
            if 500 * MB + need > card.limit:
                refused = True
                raise MemoryError
            card.peak = max(card.peak, need)
            yield from items

    plan = MemoryPlan(padded_s=30.0, limit=(500 + room) * MB, folder=str(tmp_path))
    found = budget_of(Model(), card, DeviceSharedWith(0), plan, dict(KEY))

    assert found is not None
    longest = Budget(30.0, found.bytes, found.cost).longest_s
    assert law(1, longest) <= room
    assert longest == 30 or law(1, longest) > room / 2.5  # nor is more kept back than halving costs
    assert card.trimmed == refused
    assert not (refused and list(tmp_path.rglob("*.json")))  # another time there may be more room


def test_a_model_without_an_example_has_no_budget_in_bytes() -> None:
    class Plain:
        info = ModelInfo("plain", "1", 1)

        def run(self, items: Items) -> Iterator[Outcome]:
            yield from items

    assert budget_of(Plain(), DeviceOfKnownSize(), DeviceSharedWith(0), MemoryPlan(padded_s=30.0), dict(KEY)) is None
